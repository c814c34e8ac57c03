"""A server of `coppice serve` for tests: started on a free port, asked with the program's own commands, stopped or killed."""

import os
import re
import signal
import subprocess
import threading
import time

from ranks import mpirun


class Server:
    """Starts on output and waits until it listens; ranks: under mpirun with as many. In float32 unless flags say otherwise."""

    def __init__(self, program, backbone, output, *flags, ranks=1, listen="127.0.0.1:0", progress="none"):
        self.program, self.output, self.lines = program, output, []
        command = [*(mpirun(ranks) if ranks > 1 else []), str(program), "serve", "--backbone", str(backbone)]
        command += ["--output", str(output), "--listen", listen, "--progress", progress, *map(str, flags)]
        command += [] if "--dtype" in flags else ["--dtype", "float32"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True)
        self.listening = threading.Event()
        self.address = None
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        assert self.listening.wait(120), "".join(self.lines)
        assert self.address, "".join(self.lines)

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"serving .* on (\S+);", line)
            if found:
                self.address = found.group(1)
                self.listening.set()
        self.listening.set()

    @property
    def stderr(self):
        return "".join(self.lines)

    def pid(self):
        """Of the coordinator, which has the store."""
        return int((self.output / "store" / "OWNER").read_text().split()[0])

    def environment(self):
        return os.environ | {"COPPICE_TOKEN": (self.output / "token").read_text().strip()}

    def command(self, *arguments):
        return [str(self.program), *map(str, arguments), "--server", self.address]

    def start(self, *arguments):
        """A command that runs beside the test, such as watch."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.environment()}
        return subprocess.Popen(self.command(*arguments), **options)

    def ask(self, *arguments, expect=0):
        options = {"capture_output": True, "text": True, "timeout": 300, "env": self.environment()}
        done = subprocess.run(self.command(*arguments), **options)
        if expect is not None:
            assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr, self.stderr)
        return done

    def states(self):
        """What `jobs` lists: state and step of each."""
        found = {}
        for line in self.ask("jobs").stdout.splitlines()[1:]:
            words = line.split()
            found[words[0]] = (words[1], words[2])
        return found

    def state(self, job):
        return self.states()[job][0]

    def wait(self, condition, timeout_s=120, every_s=0.05):
        """Until condition(states) is true."""
        until = time.monotonic() + timeout_s
        while not condition(states := self.states()):
            assert time.monotonic() < until, (states, self.stderr)
            assert self.process.poll() is None, self.stderr
            time.sleep(every_s)
        return states

    def wait_for(self, *jobs, state="done", timeout_s=300):
        return self.wait(lambda states: all(states.get(job, ("",))[0] == state for job in jobs), timeout_s)

    def tensors(self, jobs):
        """The bytes of each job's adapter, None where there is none."""
        paths = {entry["name"]: self.output / "adapters" / entry["name"] / "adapter_model.safetensors" for entry in jobs}
        return {name: path.read_bytes() if path.exists() else None for name, path in paths.items()}

    def kill(self):
        """-9, the coordinator and whatever it was started by and with."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)
        self.reader.join(timeout=60)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        status = self.process.wait(timeout=120)
        self.reader.join(timeout=60)
        return status

    def is_well(self):
        assert self.process.poll() is None, self.stderr
        assert self.ask("jobs").returncode == 0
