"""Loss curves of HF peft and torch, written down by make_goldens.py: the comparison that needs neither."""

import json
import pathlib

import pytest
from coppice_jobs import Run, job, largest_difference

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"


def test_the_golden_curves_come_back(coppice, tmp_path):
    golden = json.loads((GOLDEN / "curves.json").read_text())
    jobs = [job(name, GOLDEN / "rows.jsonl", golden["train"], init_adapter=str(GOLDEN / name)) for name in golden["jobs"]]
    assert len(jobs) >= 2
    run = Run(coppice, GOLDEN / "backbone", jobs, tmp_path)
    for name, curves in golden["jobs"].items():
        assert largest_difference(run.curve(name), curves["loss"]) < 1e-4, name
        assert run.curve(name, "grad_norm") == pytest.approx(curves["grad_norm"], rel=1e-3), name
