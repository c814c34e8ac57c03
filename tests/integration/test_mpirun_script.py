"""cluster/mpirun/run.sh: counts the ranks, uses a host file, and stops in order."""

import json
import os
import signal
import subprocess
import time

import pytest
from job_files import ROOT
from ranks import processes

SCRIPT = ROOT / "cluster" / "mpirun" / "run.sh"


def ranks_in(trace):
    return sum(event["name"] == "process_name" for event in json.loads(trace.read_text()))


@pytest.fixture
def environment(program):
    return {**os.environ, "COPPICE": str(program)}


def run(environment, *arguments):
    return subprocess.run([str(SCRIPT), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("options,ranks", [(["--stages=2", "--param-ranks", 1], 4), ([], 2)])
def test_it_counts_the_ranks(environment, files, options, ranks):
    trace = files.folder / "trace.json"
    done = run(environment, files.write(), files.output, *options, "--trace", trace)
    assert done.returncode == 0, done.stderr
    assert ranks_in(trace) == ranks
    assert (files.output / "adapters" / "tone" / "adapter_model.safetensors").exists()


def test_a_host_file(environment, files):
    hosts = files.folder / "hosts"
    hosts.write_text("localhost slots=3\n")
    trace = files.folder / "trace.json"
    done = run({**environment, "HOSTS": str(hosts)}, files.write(), files.output, "--stages", 2, "--trace", trace)
    assert done.returncode == 0, done.stderr
    assert ranks_in(trace) == 3
    hosts.write_text("localhost slots=2\n")
    done = run({**environment, "HOSTS": str(hosts)}, files.path, files.output, "--stages", 2)
    assert done.returncode != 0 and "slots" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_it_stops_in_order(environment, files, number):
    files.job["train"]["max_steps"] = 100000
    command = [str(SCRIPT), str(files.write()), str(files.output), "--stages", "2", "--progress", "none"]
    # Where the tests themselves run in the background, SIGINT is ignored, and a shell cannot trap what was ignored.
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=default)
    try:
        metrics = files.output / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 3, errors
        assert processes(files.output) == {}
    finally:
        for pid in processes(files.output):
            os.kill(pid, signal.SIGKILL)


def test_bad_arguments(environment, files):
    for arguments in ([], [files.write()], [files.path, files.output, "--stages", "two"]):
        done = run(environment, *arguments)
        assert done.returncode == 2 and done.stderr
