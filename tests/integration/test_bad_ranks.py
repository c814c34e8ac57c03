"""Ranks and options that do not fit together: one line that says so, exit status 2, in one process and under mpirun, and nothing is
written. mpirun adds text of its own."""

import os
import pathlib
import subprocess

import pytest
from ranks import mpirun, processes

# ranks (1: without mpirun), options, words of the line
REFUSED = {
    "too few ranks": (2, ["--stages", 2], ["2 ranks", "1 + 0 (--param-ranks) + 1 (--pipelines) x 2 (--stages) = 3"]),
    "too many ranks": (4, ["--stages", 2], ["4 ranks", "= 3"]),
    "ranks without stages": (3, [], ["3 ranks", "1 + 0 (--param-ranks) + 1 (--pipelines) x 1 (--stages) = 2"]),
    "ranks for another formula": (6, ["--stages", 2, "--pipelines", 2, "--param-ranks", 2], ["6 ranks", "1 + 2 (--param-ranks)", "= 7"]),
    "a lone rank": (0, ["--stages", 1], ["1 ranks", "= 2"]),
    "stages above layers": (1, ["--stages", 9], ["9", "8 layers"]),
    "stages above layers over ranks": (10, ["--stages", 9], ["9", "8 layers"]),
    "no stages": (1, ["--stages", 0], ["--stages", "0"]),
    "no pipelines": (1, ["--pipelines", 0], ["--pipelines", "0"]),
    "no pipelines over ranks": (2, ["--pipelines", 0], ["--pipelines", "0"]),
    "pipelines below zero": (1, ["--pipelines", -1], ["--pipelines", "-1"]),
    "parameter ranks below zero": (1, ["--param-ranks", -1], ["--param-ranks", "-1"]),
    "far too many": (1, ["--stages", 10**12], ["--stages", str(10**12)]),
    "no number": (1, ["--stages", "two"], ["--stages", "two"]),
    "no number over ranks": (3, ["--stages", "two"], ["--stages", "two"]),
    "an option that is none": (3, ["--stage", 2], ["--stage"]),
    "a split of other stages": (1, ["--stages", 2, "--split", "3,3,2"], ["--split", "3 stages", "--stages is 2"]),
    "a split of other stages over ranks": (3, ["--stages", 2, "--split", "3,3,2"], ["--split", "3 stages", "--stages is 2"]),
    "a split of fewer layers": (1, ["--stages", 2, "--split", "3,4"], ["--split", "7 of 8 layers"]),
    "a split of more layers": (3, ["--stages", 2, "--split", "5,4"], ["--split", "8 layers"]),
    "a split with nothing in it": (1, ["--stages", 2, "--split", "8,0"], ["--split", '"0"']),
    "a split that is none": (1, ["--stages", 2, "--split", "four,four"], ["--split", '"four"']),
    "a split that ends too early": (1, ["--stages", 2, "--split", "4,"], ["--split", '""']),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(program, files, case):
    ranks, options, words = REFUSED[case]
    before = [] if ranks == 1 else mpirun(max(1, ranks))
    command = [*before, program, "run", files.write(), "--output", files.output, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if "coppice: " in line] if before else done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("coppice: "), done.stderr
    for word in words:
        assert word in lines[0], lines[0]
    assert not files.output.exists()
    assert processes(files.output) == {}


@pytest.mark.parametrize("change", ["file", "backbone", "key"])
def test_a_bad_job_file_over_ranks(program, files, change):
    if change == "backbone":
        files.jobs["backbone"] = str(files.folder / "nowhere")
    elif change == "key":
        files.job["train"]["max_stops"] = 1
    path = files.write("jobs: [" if change == "file" else None)
    command = [*mpirun(3), str(program), "run", str(path), "--output", str(files.output), "--stages", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "coppice: " in line]
    assert {"file": str(path), "backbone": "nowhere", "key": "max_stops"}[change] in line
    assert not files.output.exists()


@pytest.mark.skipif("avx512f" not in pathlib.Path("/proc/cpuinfo").read_text(), reason="the processor has no two instruction sets")
def test_ranks_on_other_instruction_sets_are_refused(program, files):
    """As in a cluster of several kinds of processors, whose dtype auto would have to be one."""
    run = [str(program), "run", str(files.write()), "--output", str(files.output), "--dtype", "auto"]
    command = [*mpirun(1), *run, ":", "-n", "1", "env", "COPPICE_MAX_ISA=avx2", *run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "coppice: " in line]
    assert "rank 1 (stage 0 of pipeline 0)" in line and "computes with avx2, rank 0 with" in line, line
    assert processes(files.output) == {}


def test_an_instruction_set_that_is_none_is_refused(program, files):
    command = [str(program), "run", str(files.write()), "--output", str(files.output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | {"COPPICE_MAX_ISA": "avx10"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "coppice: COPPICE_MAX_ISA is 'avx10'; avx2, avx512, avx512_bf16 and amx are accepted\n"
    assert not files.output.exists()


def test_dry_run_over_ranks_sends_all_home(program, files):
    command = [*mpirun(4), str(program), "run", str(files.write()), "--output", str(files.output), "--stages", "2", "--param-ranks", "1"]
    done = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tone") == 1
    assert not files.output.exists() and processes(files.output) == {}
