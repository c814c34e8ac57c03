#!/usr/bin/env python3
"""Many short jobs on one server, given by many clients at once, against few long ones: tokens/s and memory.

    many_jobs.py [--program build/coppice] [--jobs 200] [--clients 20] [--few 8] [--steps 6] [--pairs 2] [--at-least 0.9]

Each pair runs --few jobs and then --jobs jobs on a fresh server with the demo's backbone and data; both train on the same number of
steps in all, of the same kinds in turn. Every client is `coppice submit`, one job after the other, and all clients begin together.
Tokens/s: of all jobs, from the moment the first client starts until the last job has ended. Memory: the server's peak (VmHWM) beside
the figure that it logs when it stops (--progress lines: the most that its memory model said of the jobs that ran together). Exit status
1 where a job has not ended well, memory is above the figure, or the medians' ratio is below --at-least.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
from servers import Server  # noqa: E402

DEMO = ROOT / "cluster" / "demo"
KINDS = [
    ("iso-date", {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": "all-linear"}),
    ("part-of-speech", {"peft_type": "BOTTLENECK", "config": "houlsby", "bottleneck_size": 16}),
    ("define", {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    ("manual", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 16}),
]


def job(number, steps):
    task, method = KINDS[number % len(KINDS)]
    train = {"max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "seed": number}
    return {"name": f"{task}-{number}", "method": method, "data": {"train": str(DEMO / "data" / f"{task}-train.jsonl")}, "train": train}


def submit(server, folder, numbers, steps, failures):
    for number in numbers:
        path = folder / f"job-{number}.yaml"
        path.write_text(json.dumps({"backbone": str(DEMO / "backbone"), "jobs": [job(number, steps)]}))
        done = server.ask("submit", path, expect=None)
        if done.returncode != 0:
            failures.append(done.stderr)


def peak_bytes(pid):
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) * 1024


def measure(program, jobs, clients, steps, flags):
    """Tokens/s, peak MiB, and the figure's MiB; raises RuntimeError where a job has not ended well."""
    with tempfile.TemporaryDirectory() as name:
        folder, failures = pathlib.Path(name), []
        server = Server(program, DEMO / "backbone", folder / "served", *flags)
        try:
            threads = [
                threading.Thread(target=submit, args=(server, folder, range(client, jobs, clients), steps, failures)) for client in range(clients)
            ]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            given = time.monotonic() - began
            states = server.wait(lambda states: not any(state in ("queued", "running") for state, _ in states.values()), timeout_s=1800, every_s=0.5)
            seconds = time.monotonic() - began
            if failures or len(states) != jobs or any(state != "done" for state, _ in states.values()):
                raise RuntimeError(f"{len(states)} jobs, {failures}, {states}")
            tokens = sum(int(line.split()[6]) for line in server.ask("jobs").stdout.splitlines()[1:])
            peak = peak_bytes(server.pid())
            server.stop()
            figure = re.search(r"by the memory model at most (\d+) MiB", server.stderr)
            print(f"{jobs:5} jobs of {steps:4} steps: {tokens} tokens, {given:.1f} s to submit, {seconds:.1f} s in all", flush=True)
            return tokens / seconds, peak / 2**20, int(figure.group(1)) if figure else 0
        finally:
            server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.environ.get("COPPICE", ROOT / "build" / "coppice"))
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of each of the many jobs")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=0.9)
    arguments, flags = parser.parse_known_args()
    many, few = [], []
    for _ in range(arguments.pairs):
        for results, jobs, clients in ((few, arguments.few, arguments.few), (many, arguments.jobs, arguments.clients)):
            steps = arguments.steps * arguments.jobs // jobs
            results.append(measure(arguments.program, jobs, clients, steps, flags))
            rate, peak, figure = results[-1]
            print(f"      {rate:.0f} tokens/s, peak {peak:.0f} MiB, by the memory model at most {figure} MiB", flush=True)
    ratio = statistics.median(r[0] for r in many) / statistics.median(r[0] for r in few)
    print(f"tokens/s of {arguments.jobs} jobs / {arguments.few} jobs: {ratio:.3f}")
    above = [result for result in many + few if result[1] > result[2]]
    return 1 if ratio < arguments.at_least or above else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
