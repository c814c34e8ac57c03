"""The table that a run draws on a terminal, here one of 80 columns; and the lines that it prints elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

import pytest


def drawn(command, columns, rows=25):
    """All that the command writes to its terminal, and its exit status."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(list(map(str, command)), stdin=its, stdout=its, stderr=its, env=os.environ | {"TERM": "xterm"})
    os.close(its)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return text.decode(), process.wait(60)


@pytest.mark.parametrize(
    "logging, steps",
    [({}, range(2, 41, 2)), ({"logging_steps": 15}, [15, 30, 40]), ({"logging_steps": 0.21}, [9, 18, 27, 36, 40]), ({"logging_steps": 1}, range(1, 41))],
)
def test_a_line_every_logging_steps(coppice, files, logging, steps):
    files.job["train"] |= {"max_steps": 40} | logging
    done = coppice("run", files.write(), "--output", files.output, "--progress", "lines")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"tone: step (\d+)/40 loss", done.stderr) == [str(step) for step in steps], done.stderr
    assert len((files.output / "metrics.jsonl").read_text().splitlines()) == 40


def test_the_jobs_of_a_sweep_are_told_apart(program, files):
    files.jobs["sweep"] = {"of": "tone", "over": {"train.learning_rate": [1e-4, 3e-4], "method.r": [2, 4]}}
    text, status = drawn([program, "run", files.write(), "--output", files.output], 80)
    assert status == 0, text
    names = [f"tone@train.learning_rate={rate},method.r={rank}" for rate in ("1e-4", "3e-4") for rank in (2, 4)]
    assert sorted(os.listdir(files.output / "adapters")) == sorted(names)
    last = text.split("\x1b[J")[-2]  # of the last table
    for name in names:
        assert f"{name} done " in last.replace("  ", " "), last
    # Before the last table, which is whole, no line is wider than the terminal.
    assert max(len(line.split("\x1b[2K")[-1]) for line in "".join(text.split("\x1b[J")[:-2]).splitlines()) <= 80
