"""A small job file that runs, in a folder of its own, for tests to change."""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
BACKBONE = ROOT / "cluster" / "demo" / "backbone"


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
