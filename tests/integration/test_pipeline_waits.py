"""tests/bench/pipeline_waits.py on traces whose figures are known, and on traces of runs, whose busiest stage must not wait."""

import json
import os
import subprocess
import sys

import pytest
from bits import job
from job_files import ROOT
from ranks import Shape, mpirun

ATTEMPTS = 3  # other work on the machine makes stages wait for each other, never less


def run(path, *arguments):
    return subprocess.run(
        [sys.executable, ROOT / "tests/bench/pipeline_waits.py", path, *arguments], capture_output=True, text=True, timeout=60
    )


def named(rank, name):
    return {"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}: {name}"}}


def span(rank, name, begin_s, seconds, pack=None):
    event = {"name": name, "ph": "X", "ts": begin_s * 1e6, "dur": seconds * 1e6, "pid": rank, "tid": 0, "args": {}}
    if pack is not None:
        event["args"]["pack"] = pack
    return event


def two_stages(packs=40, wait_s=0.1):
    """Each second of stage 0 is forward 0.4, backward 0.5, wait wait_s; stage 1 works half of that. A long wait at either end."""
    events = [named(0, "coordinator"), named(1, "pipeline 0 stage 0, layers 0-4"), named(2, "pipeline 0 stage 1, layers 4-8")]
    for rank, factor in ((1, 1.0), (2, 0.5)):
        events.append(span(rank, "wait", 0, 100))
        for i in range(packs):
            begin = 100 + i
            events.append(span(rank, "forward", begin, 0.4 * factor, i + 1))
            events.append(span(rank, "backward", begin + 0.4, 0.5 * factor, i + 1))
            events.append(span(rank, "wait", begin + 0.9, wait_s))
        events.append(span(rank, "wait", 100 + packs, 100))
    events.append(span(0, "commit", 100, 50))
    return events


def written(path, events, closed=True):
    path.write_text("[\n" + "\n,".join(json.dumps(event) for event in events) + "\n" + ("]\n" if closed else ""))
    return path


def test_start_and_end_are_left_out_and_the_busiest_stage_is_named(tmp_path):
    done = run(written(tmp_path / "trace.json", two_stages()))
    assert done.returncode == 0, done.stderr
    # From 109.0 to 130.9: 22 packs' work (19.8 s) and 21 waits (2.1 s) in 21.9 s.
    line = next(line for line in done.stdout.splitlines() if line.startswith("rank 1"))
    assert line.split()[-5:] == ["40", "21.900", "9.59", "90.41", "0.00"]
    assert "busiest: rank 1: pipeline 0 stage 0, layers 0-4: waits 9.59 %" in done.stdout
    assert "coordinator" not in done.stdout


@pytest.mark.parametrize("percent, status", [("9", 1), ("10", 0)])
def test_the_limit_is_on_the_busiest_stage(tmp_path, percent, status):
    assert run(written(tmp_path / "trace.json", two_stages()), "--at-most", percent).returncode == status


def test_the_trace_of_a_killed_run_is_read(tmp_path):
    path = written(tmp_path / "trace.json", two_stages(), closed=False)
    assert run(path).stdout == run(written(tmp_path / "whole.json", two_stages())).stdout
    path.write_text(path.read_text() + ',{"name":"forw')
    assert "waits 9.59 %" in run(path).stdout


def test_a_run_too_short_is_refused(tmp_path):
    done = run(written(tmp_path / "trace.json", two_stages(packs=19)))
    assert done.returncode == 2
    assert "ran 19 packs; at least 20 are needed" in done.stderr
    assert run(written(tmp_path / "trace.json", two_stages(packs=19)), "--skip", "5").returncode == 0


def test_what_is_no_trace_is_refused(tmp_path):
    (tmp_path / "trace.json").write_text("no trace")
    for path in (tmp_path / "trace.json", tmp_path / "none.json", written(tmp_path / "empty.json", [])):
        done = run(path)
        assert done.returncode == 2 and str(path) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("shape", [Shape(2, 1, 0), Shape(2, 1, 1), Shape(2, 1, 2), Shape(2, 2, 0), Shape(2, 2, 1)], ids=str)
def test_the_busiest_stage_of_a_run_does_not_wait(runs, shape):
    """With jobs enough for every stage there is always a pack to work on, wherever the parameters are and however many pipelines."""
    jobs = [job(f"job{i}", "lora", i, max_steps=15, per_device_train_batch_size=8, gradient_accumulation_steps=1) for i in range(8 * shape.pipelines)]
    computing, cores = shape.stages * shape.pipelines, len(os.sched_getaffinity(0))
    if computing > cores:
        pytest.skip(f"{computing} stages on {cores} cores wait for each other's core")
    for attempt in range(ATTEMPTS):
        trace = runs.folder / f"trace-{attempt}.json"
        runs.run(f"traced-{attempt}", jobs, *shape.flags, "--threads", 1, "--dtype", "float32", "--trace", trace, before=mpirun(shape.ranks))
        done = run(trace, "--at-most", "5")
        if done.returncode == 0:
            return
    pytest.fail(done.stdout + done.stderr)
