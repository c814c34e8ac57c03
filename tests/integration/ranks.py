"""A run over MPI ranks as the tests see it: its command line, its processes and which rank each of them is."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import time


@dataclasses.dataclass(frozen=True)
class Shape:
    stages: int = 1
    pipelines: int = 1
    shards: int = 0

    @property
    def ranks(self):
        return 1 + self.shards + self.pipelines * self.stages

    @property
    def flags(self):
        return ["--stages", str(self.stages), "--pipelines", str(self.pipelines), "--param-ranks", str(self.shards)]

    def role(self, rank):
        return "coordinator" if rank == 0 else "shard" if rank <= self.shards else "stage"


def mpirun(ranks):
    """What stands before the program's own command line: more ranks than cores, each with threads of its own."""
    return ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"] + ["--allow-run-as-root"] * (os.geteuid() == 0)


def processes(words):
    """Those that live, by id, with their rank (None: mpirun) of all whose command line has this text in it."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            dead = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
            if str(words) not in command or dead:
                continue
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has gone meanwhile
            continue
        ranks = [int(each.split(b"=")[1]) for each in variables if each.startswith(b"OMPI_COMM_WORLD_RANK=")]
        found[int(entry.name)] = ranks[0] if ranks else None
    return found


class RankedRun:
    """A run over ranks in the background. Its output folder's name is its own, so that its processes are known by it."""

    def __init__(self, shape, command, output):
        self.shape, self.output = shape, output
        self.stderr = open(output.parent / f"{output.name}.stderr", "w+")
        self.mpirun = subprocess.Popen(mpirun(shape.ranks) + command, stdout=self.stderr, stderr=self.stderr, start_new_session=True)

    def pid(self, rank):
        """Of the process that is this rank; None: of mpirun. Waits until it is there."""
        if rank is None:
            return self.mpirun.pid
        end = time.monotonic() + 30
        while time.monotonic() < end and self.mpirun.poll() is None:
            for pid, known in processes(self.output).items():
                if known == rank:
                    return pid
            time.sleep(0.01)
        raise AssertionError(f"rank {rank} is not there: {self.text()}")

    def signal(self, rank, number):
        os.kill(self.pid(rank), number)

    def wait(self, timeout_s):
        """The exit status, once mpirun and every rank have gone."""
        end = time.monotonic() + timeout_s
        status = self.mpirun.wait(timeout_s)
        while left := processes(self.output):
            assert time.monotonic() < end, f"{timeout_s} s later processes are left, with ranks: {left}\n{self.text()}"
            time.sleep(0.01)
        return status

    def wait_for_steps(self, count):
        """Until so many lines of metrics are there; the run must not end before."""
        while self.mpirun.poll() is None and self.steps() < count:
            time.sleep(0.01)
        assert self.mpirun.poll() is None, self.text()

    def steps(self):
        metrics = self.output / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def processes(self):
        return processes(self.output)

    def text(self):
        return pathlib.Path(self.stderr.name).read_text()

    def lines(self):
        """What the program itself said."""
        return [line for line in self.text().splitlines() if line.startswith("coppice: ")]

    def end(self):
        for pid in processes(self.output):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.mpirun.wait(30)
        self.stderr.close()
