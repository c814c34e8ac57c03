"""What the integration tests share: the program (COPPICE, by default build/coppice of this checkout) and a small job file that runs.

Run with pytest from anywhere; a missing program is a failure, never a silent skip.
"""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BACKBONE = ROOT / "cluster" / "demo" / "backbone"


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


class Files:
    def __init__(self, folder):
        self.folder = folder
        self.output = folder / "out"
        self.path = folder / "jobs.yaml"
        self.rows = [{"prompt": f"Say {word}:", "completion": f" {word}"} for word in ("one", "two", "three", "four")]
        self.jobs = {
            "backbone": str(BACKBONE),
            "jobs": [
                {
                    "name": "tone",
                    "method": {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]},
                    "data": {"train": "rows.jsonl"},
                    "train": {"max_steps": 2, "per_device_train_batch_size": 2},
                }
            ],
        }

    @property
    def job(self):
        return self.jobs["jobs"][0]

    def write(self, text=None, rows=None):
        """text and rows: as they stand in the files, instead of what this object holds. JSON is YAML."""
        self.path.write_text(json.dumps(self.jobs, indent=1) if text is None else text)
        lines = "".join(json.dumps(row) + "\n" for row in self.rows) if rows is None else rows
        (self.folder / "rows.jsonl").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
        return self.path
