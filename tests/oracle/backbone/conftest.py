"""The program under test and small random backbones, made with transformers.

COPPICE names the program (default: build/coppice); COPPICE_DEVICE another device than its default.
"""

import os
import pathlib
import subprocess

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Program:
    def __init__(self, path, device):
        self.path = path
        self.options = ["--dtype", "float32"] + (["--device", device] if device else [])  # as the models of transformers here

    def __call__(self, *arguments, computes=True):
        """Runs a command; its completed process, whatever the exit status."""
        command = [str(self.path), *map(str, arguments), *(self.options if computes else [])]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    def output_of(self, *arguments, computes=True):
        """Runs a command that must succeed; what it writes to stdout."""
        done = self(*arguments, computes=computes)
        assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def coppice():
    path = pathlib.Path(os.environ.get("COPPICE", ROOT / "build/coppice"))
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return Program(path.resolve(), os.environ.get("COPPICE_DEVICE"))


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)
