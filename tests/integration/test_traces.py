"""The file of --trace: what every rank did, in a form that Perfetto opens, also of a run that was killed."""

import collections
import json
import signal

import pytest
from bits import SUBJECTS, others
from ranks import RankedRun, Shape, mpirun

JOBS = SUBJECTS + others(3)
STAGE = {"forward", "backward", "wait"}
SHARD = {"update", "publish", "commit", "wait"}


def read(path):
    """What chrome://tracing and Perfetto accept: an array, whose end may be missing after a whole line."""
    text = path.read_text()
    assert text.startswith("[")
    return json.loads(text if text.rstrip().endswith("]") else text.rstrip().rstrip(",") + "]")


def names(events):
    return {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}


def spans(events):
    found = collections.defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            found[event["pid"]].append(event)
    return found


@pytest.mark.parametrize("transport", ("loopback", "mpi"))
def test_every_rank_is_in_the_trace(runs, transport):
    shape = Shape(2, 2, 1)
    trace = runs.folder / "trace.json"
    before = mpirun(shape.ranks) if transport == "mpi" else ()
    runs.run("traced", JOBS, *shape.flags, "--threads", 1, "--trace", trace, before=before)
    events = json.loads(trace.read_text())
    assert names(events) == {
        0: "rank 0: coordinator", 1: "rank 1: shard 1",
        2: "rank 2: pipeline 0 stage 0, layers 0 to 1", 3: "rank 3: pipeline 0 stage 1, layers 2 to 3",
        4: "rank 4: pipeline 1 stage 0, layers 0 to 1", 5: "rank 5: pipeline 1 stage 1, layers 2 to 3",
    }  # fmt: skip
    found = spans(events)
    kinds = {rank: {span["name"] for span in found[rank]} for rank in range(6)}
    assert kinds[0] == {"publish", "commit"}
    assert kinds[1] == SHARD
    assert all(kinds[rank] == STAGE for rank in range(2, 6)), kinds
    steps = sum(entry["train"]["max_steps"] for entry in JOBS)
    assert sum(span["name"] == "update" for span in found[1]) == steps
    assert {span["args"]["job"] for span in found[1] if span["name"] == "update"} == {entry["name"] for entry in JOBS}
    # The stages of a pipeline go through the same packs.
    for first, second in ((2, 3), (4, 5)):
        packs = [[span["args"]["pack"] for span in found[rank] if span["name"] == "forward"] for rank in (first, second)]
        assert packs[0] and packs[0] == packs[1]


def test_spans_of_a_rank_do_not_overlap_and_ranks_agree_on_the_clock(runs):
    shape = Shape(2, 1, 0)
    trace = runs.folder / "trace.json"
    runs.run("traced", JOBS, *shape.flags, "--threads", 1, "--trace", trace, before=mpirun(shape.ranks))
    events = json.loads(trace.read_text())
    found = spans(events)
    assert {span["name"] for span in found[0]} == {"update", "publish", "commit"}
    for rank in (1, 2):
        ordered = sorted((span["ts"], span["ts"] + span["dur"]) for span in found[rank])
        assert all(end <= begin + 1 for (_, end), (begin, _) in zip(ordered, ordered[1:]))  # times are cut to 0.001 us
    # A pack's forward is over on the first stage when it begins on the second.
    ends = {span["args"]["pack"]: span["ts"] + span["dur"] for span in found[1] if span["name"] == "forward"}
    begins = {span["args"]["pack"]: span["ts"] for span in found[2] if span["name"] == "forward"}
    assert len(begins) == len(ends) > 10
    assert all(begins[pack] > ends[pack] - 1000 for pack in ends)  # rows leave just before the span ends


def test_the_trace_of_a_killed_run_opens(runs):
    shape = Shape(2, 1, 1)
    trace = runs.folder / "trace.json"
    run = RankedRun(shape, runs.command("killed", JOBS, *shape.flags, "--threads", 1, "--trace", trace), runs.folder / "killed")
    try:
        run.wait_for_steps(20)
        run.signal(0, signal.SIGKILL)
        assert run.wait(20) != 0
    finally:
        run.end()
    events = read(trace)
    assert len(names(events)) == shape.ranks
    assert {span["name"] for span in spans(events)[0]} >= {"publish"}


def test_a_trace_that_cannot_be_written(runs):
    done = runs.run("untraced", SUBJECTS, "--trace", runs.folder / "nowhere" / "trace.json", expect=2)
    assert len(done.stderr.splitlines()) == 1 and "nowhere/trace.json" in done.stderr
