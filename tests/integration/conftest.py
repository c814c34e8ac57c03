"""What the integration tests share: the program (COPPICE, by default build/coppice of this checkout) and a small job file that runs.

Run with pytest from anywhere; a missing program is a failure, never a silent skip.
"""

import os
import pathlib
import subprocess

import bits
import pytest
from job_files import ROOT, Files


@pytest.fixture(scope="session")
def program():
    path = pathlib.Path(os.environ.get("COPPICE", ROOT / "build" / "coppice")).resolve()
    if not os.access(path, os.X_OK):
        pytest.fail(f"{path} is no program; build it, or name another in COPPICE", pytrace=False)
    return path


@pytest.fixture(scope="session")
def coppice(program):
    """Runs the program with arguments; gives the completed process with its output as text."""

    def run(*arguments, timeout_s=120, **options):
        command = [str(program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, **options)

    return run


@pytest.fixture
def files(tmp_path):
    """A folder with a job file of one job of two steps, changed by edit before it is written."""
    return Files(tmp_path)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits") / "backbone"
    bits.write_backbone(folder)
    return folder


@pytest.fixture
def runs(program, backbone, tmp_path):
    return bits.Runs(program, backbone, tmp_path)


@pytest.fixture(scope="session")
def alone(program, backbone, tmp_path_factory):
    """The tensors of each subject by itself, in one process and one stage, with one thread; by dtype and name."""
    runs = bits.Runs(program, backbone, tmp_path_factory.mktemp("alone"))
    tensors = {}
    for dtype in ("float32", "bfloat16"):
        for entry in bits.SUBJECTS:
            runs.run(f"{dtype}-{entry['name']}", [entry], "--threads", 1, "--dtype", dtype)
            tensors[dtype, entry["name"]] = runs.tensors(f"{dtype}-{entry['name']}", [entry])[entry["name"]]
    assert None not in tensors.values()
    return tensors
