"""The program under test. COPPICE names it (default: build/coppice)."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def coppice():
    """Runs a command of the program that must succeed; a missing program is a failure, never a silent skip."""
    path = pathlib.Path(os.environ.get("COPPICE", ROOT / "build" / "coppice")).resolve()
    if not os.access(path, os.X_OK):
        pytest.fail(f"{path} is no program; build it, or name another in COPPICE", pytrace=False)

    def run(*arguments):
        command = [str(path), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"

    return run


@pytest.fixture(scope="module")
def one_thread():
    """Tiny models, and sums of torch in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
