"""The peak of a run lies within a tenth of what the memory model says of it before it starts (`run --dry-run`), both ways.

Peaks are those of processes (ru_maxrss), of several ranks their sum.
"""

import json
import random
import re
import subprocess
import sys

import pytest
from job_files import BACKBONE, ROOT
from ranks import mpirun

VOCABULARY = 4096
# Runs the program and writes its peak in KiB to a file of the rank's own: a process that is small itself, since a child starts with its peak.
MEASURE = """
import os, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
with open(os.path.join(sys.argv[1], os.environ.get("OMPI_COMM_WORLD_RANK", "0")), "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
"""


def lora(name, folder, batch, lengths, steps=4, r=16, **train):
    """A job on all linear layers with rows of random tokens for its steps, in the order of the file."""
    draw = random.Random(name)
    rows = [[draw.randrange(VOCABULARY) for _ in range(draw.randint(*lengths))] for _ in range(batch * steps)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    return {
        "name": name,
        "method": {"peft_type": "LORA", "r": r, "target_modules": "all-linear"},
        "data": {"train": f"{name}.jsonl", "shuffle": False},
        "train": {"max_steps": steps, "per_device_train_batch_size": batch} | train,
    }


def several(count, *arguments, **options):
    return lambda folder: [lora(f"job-{i}", folder, *arguments, **options) for i in range(count)]


def sweep(count, batch, lengths, rows, **data):
    """Jobs on one file, which is far larger than what they train on."""

    def jobs(folder):
        one = lora("sweep", folder, batch, lengths, steps=rows // batch)
        one["train"]["max_steps"] = 4
        one["data"] |= data
        return [one | {"name": f"sweep-{i}"} for i in range(count)]

    return jobs


def scaled(folder):
    """A method that changes the gradients of gate and up, which are float32 then in either dtype."""
    job = lora("scaled", folder, 4, (512, 512))
    return [job | {"method": {"peft_type": "IA3", "target_modules": ["gate_proj", "up_proj"], "feedforward_modules": []}}]


def dropped(folder):
    """Rows of float32 that dropout takes at down_proj, where nothing else is kept."""
    return [lora("dropped", folder, 4, (512, 512), gradient_checkpointing=True) | {"method": {"peft_type": "LORA", "r": 16, "target_modules": "all-linear", "lora_dropout": 0.1}}]


CASES = {
    "one job": several(1, 4, (512, 512)),
    "one job of mixed lengths": several(1, 8, (32, 512)),
    "eight jobs": several(8, 1, (512, 512)),
    "eight jobs of mixed lengths": several(8, 1, (32, 512)),
    "many small jobs": several(32, 1, (16, 64)),
    "rank 64": several(2, 2, (512, 512), r=64),
    "checkpointing": several(1, 4, (512, 512), gradient_checkpointing=True),
    "gradients of gate and up": scaled,
    "dropout": dropped,
    "short": several(1, 1, (64, 64)),
    "sixteen jobs on one file": sweep(16, 1, (128, 128), 10000),
    "sixteen jobs that split it alike": sweep(16, 1, (128, 128), 10000, eval_split=4),
}
IN_EITHER_DTYPE = {"one job", "checkpointing", "gradients of gate and up", "dropout"}


@pytest.fixture
def peak_over_model(program, tmp_path):
    def measure(jobs_file, *flags, ranks=0):
        launch = mpirun(ranks) if ranks else []
        command = [str(program), "run", str(jobs_file), "--output", str(tmp_path / "out"), "--progress", "none", "--threads", "2", *flags]
        plan = subprocess.run([*launch, *command, "--dry-run"], capture_output=True, text=True, timeout=120)
        assert plan.returncode == 0, plan.stderr
        said = float(re.search(r"in all ([\d.]+) MiB", plan.stdout).group(1))
        peaks = tmp_path / "peaks"
        peaks.mkdir()
        done = subprocess.run([*launch, sys.executable, "-I", "-S", "-c", MEASURE, str(peaks), *command], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        measured = [int(path.read_text()) / 1024 for path in peaks.iterdir()]
        assert len(measured) == max(1, ranks)
        print(f"measured {' + '.join(f'{each:.0f}' for each in measured)} MiB, by the model {said:.0f} MiB: {sum(measured) / said:.3f}\n{plan.stdout}")
        return sum(measured) / said

    return measure


def write(folder, jobs):
    path = folder / "jobs.yaml"
    path.write_text(json.dumps({"backbone": str(BACKBONE), "jobs": jobs}))
    return path


@pytest.mark.parametrize("case, dtype", [(case, dtype) for case in CASES for dtype in (["float32", "bfloat16"] if case in IN_EITHER_DTYPE else ["auto"])])
def test_the_peak_is_what_the_model_says(case, dtype, peak_over_model, tmp_path):
    assert 0.9 <= peak_over_model(write(tmp_path, CASES[case](tmp_path)), "--dtype", dtype) <= 1.1


@pytest.mark.parametrize("stages, batch, length", [(2, 1, 256), (4, 1, 256), (2, 2, 512)])
def test_with_stages_in_one_process(stages, batch, length, peak_over_model, tmp_path):
    jobs = several(8, batch, (length, length))(tmp_path)
    assert 0.9 <= peak_over_model(write(tmp_path, jobs), "--stages", str(stages)) <= 1.1


def test_the_sum_over_ranks(peak_over_model, tmp_path):
    jobs = several(8, 1, (256, 256))(tmp_path)
    assert 0.9 <= peak_over_model(write(tmp_path, jobs), "--stages", "2", ranks=3) <= 1.1


def test_the_demo(peak_over_model):
    """Its six jobs of five kinds of PEFT; commits and evaluations, whose memory comes and goes, for as many steps as the heap needs to settle."""
    assert 0.9 <= peak_over_model(ROOT / "cluster" / "demo" / "jobs.yaml", "--set", "defaults.train.max_steps=100") <= 1.1
