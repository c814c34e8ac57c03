"""A job's adapter has the same bits whatever it runs beside and however: the promise that everything else rests on.

Five jobs, one of each kind of PEFT, run alone; then beside others, on other numbers of stages and threads, with packs of other sizes,
with checkpointing, killed and resumed; their exported tensors must be the same bytes. COPPICE_TEST_LONG=1 runs the product of all that.
"""

import itertools
import json
import random
import signal
import subprocess
import time

import pytest
from bits import LONG, METHODS, SUBJECTS, differing, job, others


def test_jobs_are_not_all_alike(alone):
    assert len(set(alone.values())) == len(alone)


# others, stages, threads, pack rows, checkpointing
COVERING = [
    (0, 1, 2, 2048, False), (1, 2, 1, 2048, False), (7, 4, 2, 2048, True), (31, 1, 2, 2048, False),
    (31, 4, 1, 300, False), (1, 1, 2, 60, True), (7, 2, 2, 60, False), (0, 4, 1, 2048, True),
]  # fmt: skip
PRODUCT = list(itertools.product((0, 1, 7, 31), (1, 2, 4), (1, 2), (60, 2048), (False, True)))


ROUNDED = [(7, 4, 2, 2048, True), (31, 1, 2, 2048, False)]  # of the covering set, in bfloat16
CASES = [("float32", *case) for case in (PRODUCT if LONG else COVERING)] + [("bfloat16", *case) for case in (PRODUCT if LONG else ROUNDED)]


@pytest.mark.parametrize("dtype,beside,stages,threads,pack_rows,checkpointing", CASES)
def test_same_bits_in_any_company(runs, alone, dtype, beside, stages, threads, pack_rows, checkpointing):
    subjects = [entry | {"train": entry["train"] | {"gradient_checkpointing": checkpointing}} for entry in SUBJECTS]
    jobs = subjects + others(beside)
    random.Random(f"{beside} {stages} {threads}").shuffle(jobs)
    runs.run("mixed", jobs, "--stages", stages, "--threads", threads, "--pack-rows", pack_rows, "--dtype", dtype)
    assert differing(runs.tensors("mixed", SUBJECTS), alone, dtype) == []


@pytest.mark.parametrize("seed", range(20 if LONG else 3))
def test_same_bits_after_kill_and_resume(runs, alone, seed):
    """kill -9 at random moments, each time on another number of stages and threads, until the run comes to its end."""
    numbers = random.Random(seed)
    jobs = SUBJECTS + others(7)
    for _ in range(6):
        flags = ["--stages", numbers.choice((1, 2, 4)), "--threads", numbers.choice((1, 2))]
        process = subprocess.Popen(runs.command("killed", jobs, *flags), stderr=subprocess.PIPE)
        try:
            process.wait(timeout=numbers.uniform(0.05, 1.5))
        except subprocess.TimeoutExpired:
            process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
    runs.run("killed", jobs)
    assert differing(runs.tensors("killed", SUBJECTS), alone) == []
    steps = [json.loads(line) for line in (runs.folder / "killed" / "metrics.jsonl").read_text().splitlines()]
    for entry in jobs:
        made = [line["step"] for line in steps if line["job"] == entry["name"]]
        assert made == list(range(1, entry["train"]["max_steps"] + 1)), entry["name"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_stops_at_a_step_on_a_signal_and_goes_on(runs, alone, number):
    jobs = SUBJECTS + others(7)
    process = subprocess.Popen(runs.command("stopped", jobs), stderr=subprocess.PIPE, text=True)
    metrics = runs.folder / "stopped" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
        time.sleep(0.01)
    for _ in range(2 if number == signal.SIGHUP else 1):  # of a terminal that goes: from the shell and from the system
        process.send_signal(number)
        time.sleep(0.001)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "run" in errors and "--output" in errors  # the command that resumes
    runs.run("stopped", jobs)
    assert differing(runs.tensors("stopped", SUBJECTS), alone) == []


def test_a_diverging_job_fails_alone(runs, alone):
    wild = job("wild", "lora", 3, learning_rate=1e30, max_steps=10)
    done = runs.run("diverging", [wild] + SUBJECTS, expect=1)
    assert "wild" in done.stderr and "diverged" in done.stderr
    assert differing(runs.tensors("diverging", SUBJECTS), alone) == []
    assert runs.tensors("diverging", [wild]) == {"wild": None}


def test_a_job_that_cannot_be_exported_fails_alone(runs, alone):
    blocked = job("blocked", "ia3", 3)
    taken = runs.folder / "late" / "adapters" / "blocked"
    taken.mkdir(parents=True)
    (taken / "thesis.txt").write_text("not an adapter")
    done = runs.run("late", [blocked] + SUBJECTS, expect=1)
    assert "blocked" in done.stderr
    assert (taken / "thesis.txt").read_text() == "not an adapter"
    command = done.stderr.splitlines()[-1].strip()
    assert command.startswith(str(runs.program)) and command.endswith(" --retry-failed"), done.stderr
    retry = f"`coppice run JOBS.yaml --output {runs.folder / 'late'} --retry-failed`"
    assert retry in subprocess.run([runs.program, "jobs", runs.folder / "late"], capture_output=True, text=True).stderr
    assert differing(runs.tensors("late", SUBJECTS), alone) == []
    (taken / "thesis.txt").unlink()
    subprocess.run(command, shell=True, check=True, timeout=120)
    assert runs.tensors("late", [blocked])["blocked"] is not None


def test_more_steps_go_on_from_where_a_job_ended(runs):
    constant = [job(kind, kind, seed, lr_scheduler_type="constant") for seed, kind in enumerate(METHODS)]
    longer = [entry | {"train": entry["train"] | {"max_steps": 5}} for entry in constant]
    runs.run("grown", constant)
    runs.run("grown", longer)
    runs.run("at-once", longer)
    assert runs.tensors("grown", longer) == runs.tensors("at-once", longer)
