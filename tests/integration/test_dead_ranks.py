"""Ranks that die or fail: the run ends with a message within seconds, no process stays behind, and starting again, also over other ranks,
goes on to the same bits. Seeds are in the names of the tests; COPPICE_TEST_LONG=1 takes more of them."""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from bits import LONG, SUBJECTS, differing, others
from ranks import RankedRun, Shape

SHAPES = [Shape(stages, pipelines, shards) for stages, pipelines in ((1, 1), (2, 1), (1, 2), (2, 2)) for shards in (0, 1, 2)]
GONE_SECONDS = 20  # far more than it takes, on a machine with other work
JOBS = SUBJECTS + others(7)
STEPS = sum(entry["train"]["max_steps"] for entry in JOBS)


@pytest.fixture
def start(runs):
    """Starts a run of JOBS over ranks in the folder of that name; what is left of it at the end is killed."""
    started = []

    def begin(name, shape, *flags, wrapper=()):
        command = [*wrapper, *runs.command(name, JOBS, *shape.flags, "--threads", 1, *flags)]
        run = RankedRun(shape, command, runs.folder / name)
        started.append(run)
        return run

    yield begin
    for run in started:
        run.end()


def check_goes_on(runs, alone, name):
    """In one process: to the end, the same bits, and every step once and in order."""
    runs.run(name, JOBS)
    assert differing(runs.tensors(name, SUBJECTS), alone) == []
    lines = [json.loads(line) for line in (runs.folder / name / "metrics.jsonl").read_text().splitlines()]
    for entry in JOBS:
        made = [line["step"] for line in lines if line["job"] == entry["name"]]
        assert made == list(range(1, entry["train"]["max_steps"] + 1)), entry["name"]


def stored_steps(coppice, folder):
    """What a reader finds in the store, by job."""
    if not (folder / "store" / "CURRENT").exists():  # it died before there was one
        return {}
    listed = coppice("jobs", folder)
    assert listed.returncode == 0, listed.stderr
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    return {row[0]: int(row[2].split("/")[0]) for row in rows}


@pytest.mark.parametrize("seed", range(12 if LONG else 2))
@pytest.mark.parametrize("victim", ("mpirun", "coordinator", "stage", "shard"))
def test_kill_9_at_a_random_moment(runs, alone, start, coppice, victim, seed):
    numbers = random.Random(f"{victim} {seed}")
    stored = {}
    for _ in range(2):
        shape = numbers.choice([shape for shape in SHAPES if shape.shards > 0 or victim != "shard"])
        run = start("killed", shape)
        rank = None if victim == "mpirun" else numbers.choice([rank for rank in range(shape.ranks) if shape.role(rank) == victim])
        pid = run.pid(rank)
        steps = numbers.choice((0, 0, 4, 12, 24))
        while run.mpirun.poll() is None and run.steps() < steps:
            time.sleep(0.005)
        time.sleep(numbers.uniform(0, 0.3 if steps else 1.5))
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = run.wait(GONE_SECONDS)
        if status == 0:  # the run was faster than the signal: then all of it is there
            assert run.steps() == STEPS, run.text()
            break
        print(f"{shape} rank {rank} after {run.steps()} steps: all gone in {time.monotonic() - began:.2f} s, status {status}")
        if rank is not None:  # nobody is left to speak for mpirun
            assert f"process rank {rank}" in run.text() and "signal 9" in run.text(), run.text()
        now = stored_steps(coppice, runs.folder / "killed")
        assert all(now[job] >= steps for job, steps in stored.items()), (stored, now)
        stored = now
    last = start("killed", numbers.choice(SHAPES))
    assert last.wait(120) == 0, last.text()
    check_goes_on(runs, alone, "killed")


def test_a_start_right_after_a_kill_waits_or_names_who_is_left(runs, alone, start):
    run = start("again", Shape(2, 1, 2))
    run.wait_for_steps(4)
    held = {pid for pid, rank in run.processes().items() if rank is not None}
    run.signal(None, signal.SIGKILL)
    end = time.monotonic() + GONE_SECONDS
    while (again := start("again", Shape(2, 1, 2))).wait(120) != 0:
        assert again.mpirun.returncode == 2, again.text()
        (line,) = again.lines()
        assert "is in use by process" in line and any(str(pid) in line for pid in held), again.text()
        assert time.monotonic() < end
    check_goes_on(runs, alone, "again")


@contextlib.contextmanager
def held(store):
    """As by a rank that the system has not let go of yet: a process that has the store's lock, and whose id is in it."""
    with open(store / "OWNER", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who was killed may have it for a moment yet
        holder = subprocess.Popen(["sleep", "1000"], pass_fds=[lock.fileno()])
        lock.truncate(0)
        lock.write(str(holder.pid))
    try:
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("shards", (1, 2))
def test_a_rank_that_still_holds_its_store_is_named(runs, alone, start, coppice, shards):
    run = start("held", Shape(1, 1, shards))
    while stored_steps(coppice, runs.folder / "held").get("lora", 0) < 1:  # from then on HEAD names the stores of all shards
        assert run.mpirun.poll() is None, run.text()
    run.signal(None, signal.SIGKILL)
    run.wait(GONE_SECONDS)
    with held(runs.folder / "held" / "store" / f"shard-{shards}") as holder:
        refused = start("held", Shape(1, 1, shards))
        assert refused.wait(60) == 2, refused.text()
        (line,) = refused.lines()
        assert f"shard-{shards}: is in use by process {holder}" in line and f"rank {shards} (parameter rank {shards} of {shards}): " in line
    last = start("held", Shape(1, 1, shards))
    assert last.wait(120) == 0, last.text()
    check_goes_on(runs, alone, "held")


def test_a_store_that_no_head_names_is_given_back_unless_somebody_holds_it(runs, alone, start):
    other = start("other", Shape(1, 1, 2))
    assert other.wait(120) == 0, other.text()
    runs.run("held", JOBS)
    left = runs.folder / "held" / "store" / "shard-2"
    shutil.copytree(runs.folder / "other" / "store" / "shard-2", left)
    with held(left) as holder:
        refused = start("held", Shape(2, 1, 0))
        assert refused.wait(60) == 2, refused.text()
        (line,) = refused.lines()
        assert f"shard-2: is in use by process {holder}" in line
    last = start("held", Shape(2, 1, 0))
    assert last.wait(120) == 0, last.text()
    assert not left.exists()
    check_goes_on(runs, alone, "held")


@pytest.mark.parametrize("rank,number", [(None, signal.SIGUSR1), (0, signal.SIGTERM), (0, signal.SIGINT)])
@pytest.mark.parametrize("shards", (0, 2))
def test_an_orderly_stop_commits_what_was_reported(runs, alone, start, rank, number, shards):
    run = start("stopped", Shape(2, 1, shards))
    run.wait_for_steps(6)
    began = time.monotonic()
    run.signal(rank, number)
    assert run.wait(GONE_SECONDS) == 3, run.text()
    print(f"stopped in {time.monotonic() - began:.2f} s")
    reported = (runs.folder / "stopped" / "metrics.jsonl").read_text()
    assert any("To go on" in line or "--output" in line for line in run.text().splitlines()), run.text()
    check_goes_on(runs, alone, "stopped")
    assert (runs.folder / "stopped" / "metrics.jsonl").read_text().startswith(reported)  # nothing was computed again


def test_a_second_signal_ends_all_at_once(runs, alone, start):
    run = start("twice", Shape(2, 1, 1))
    run.wait_for_steps(4)
    for pid, rank in run.processes().items():
        if rank is not None and rank > 1:
            os.kill(pid, signal.SIGSTOP)  # so that the stop cannot come to its end
    run.signal(0, signal.SIGTERM)
    while "second signal" not in run.text():
        assert run.mpirun.poll() is None
        time.sleep(0.01)
    run.signal(0, signal.SIGTERM)
    assert run.wait(GONE_SECONDS) not in (0, 3)
    check_goes_on(runs, alone, "twice")


def test_a_rank_that_cannot_write_its_store_is_named(runs, alone, start):
    """Rank 2, a shard, may write no file of more than 16 KiB: what a full disk on its host looks like."""
    small = 'if [ "$OMPI_COMM_WORLD_RANK" = 2 ]; then trap "" XFSZ; ulimit -f 16; fi; exec "$@"'
    run = start("full", Shape(2, 1, 2), wrapper=["bash", "-c", small, "bash"])
    began = time.monotonic()
    assert run.wait(120) == 2, run.text()
    print(f"ended in {time.monotonic() - began:.2f} s")
    (line,) = run.lines()
    assert "rank 2 (parameter rank 2 of 2): " in line and "shard-2" in line, run.text()
    check_goes_on(runs, alone, "full")
