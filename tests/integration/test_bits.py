"""A job's adapter has the same bits whatever it runs beside and however: the promise that everything else rests on.

Five jobs, one of each kind of PEFT, run alone; then beside others, on other numbers of stages and threads, with packs of other sizes,
with checkpointing, killed and resumed; their exported tensors must be the same bytes. COPPICE_TEST_LONG=1 runs the product of all that.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import time

import numpy
import pytest
from safetensors.numpy import save_file

LONG = os.environ.get("COPPICE_TEST_LONG") == "1"
VOCABULARY = 211
# Inputs of down_proj wider than 2048: where a library may begin to cut its sums by the number of rows.
SHAPE = dict(hidden=64, intermediate=2312, layers=4, heads=4, kv_heads=2, head_dim=16)

METHODS = {
    "lora": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"},
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "prompt_tuning_init": "SAMPLE_VOCAB"},
    "bottleneck": {"peft_type": "BOTTLENECK", "config": "houlsby", "bottleneck_size": 6},
}


def write_backbone(folder):
    random_numbers = numpy.random.default_rng(7)
    hidden, intermediate, head = SHAPE["hidden"], SHAPE["intermediate"], SHAPE["head_dim"]
    q, kv = SHAPE["heads"] * head, SHAPE["kv_heads"] * head
    shapes = {"model.embed_tokens.weight": (VOCABULARY, hidden), "lm_head.weight": (VOCABULARY, hidden), "model.norm.weight": (hidden,)}
    for layer in range(SHAPE["layers"]):
        at = f"model.layers.{layer}."
        shapes |= {at + f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {at + f"self_attn.{name}_proj.weight": (rows, hidden) for name, rows in (("q", q), ("k", kv), ("v", kv))}
        shapes |= {at + "self_attn.o_proj.weight": (hidden, q), at + "mlp.down_proj.weight": (hidden, intermediate)}
        shapes |= {at + f"mlp.{name}_proj.weight": (intermediate, hidden) for name in ("gate", "up")}
    tensors = {}
    for name, shape in shapes.items():
        values = random_numbers.standard_normal(shape, dtype=numpy.float32)
        tensors[name] = numpy.ones(shape, numpy.float32) if len(shape) == 1 else values / numpy.float32(shape[-1] ** 0.5)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": SHAPE["layers"], "num_attention_heads": SHAPE["heads"],
        "num_key_value_heads": SHAPE["kv_heads"], "head_dim": head, "vocab_size": VOCABULARY, "max_position_embeddings": 256,
        "tie_word_embeddings": False, "rope_theta": 10000.0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def job(name, kind, seed, **train):
    settings = {"max_steps": 3, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "seed": seed}
    return {"name": name, "method": METHODS[kind], "data": {"train": f"{name}.jsonl"}, "train": settings | train}


SUBJECTS = [job(kind, kind, seed) for seed, kind in enumerate(METHODS)]


def others(count):
    kinds = itertools.cycle(METHODS)
    return [
        job(f"other{i}", next(kinds), 100 + i, max_steps=1 + i % 5, per_device_train_batch_size=1 + i % 4, gradient_accumulation_steps=1 + i % 3)
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bits") / "backbone"
    write_backbone(folder)
    return folder


class Runs:
    def __init__(self, program, backbone, folder):
        self.program, self.backbone, self.folder = program, backbone, folder

    def write(self, name, jobs):
        for entry in jobs:
            numbers = random.Random(entry["name"])
            rows = [[numbers.randrange(VOCABULARY) for _ in range(numbers.randrange(2, 40))] for _ in range(30)]
            text = "".join(json.dumps({"input_ids": row}) + "\n" for row in rows)
            (self.folder / entry["data"]["train"]).write_text(text)
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({"backbone": str(self.backbone), "jobs": jobs}))
        return path

    def command(self, name, jobs, *flags):
        path = self.write(name, jobs)
        return [str(self.program), "run", str(path), "--output", str(self.folder / name), "--progress", "none", *map(str, flags)]

    def run(self, name, jobs, *flags, expect=0):
        done = subprocess.run(self.command(name, jobs, *flags), capture_output=True, text=True, timeout=600)
        assert done.returncode == expect, done.stderr
        return done

    def tensors(self, name, jobs):
        found = {}
        for entry in jobs:
            path = self.folder / name / "adapters" / entry["name"] / "adapter_model.safetensors"
            found[entry["name"]] = path.read_bytes() if path.exists() else None
        return found


@pytest.fixture
def runs(program, backbone, tmp_path):
    return Runs(program, backbone, tmp_path)


@pytest.fixture(scope="session")
def alone(program, backbone, tmp_path_factory):
    """Each subject by itself, in one stage, with one thread."""
    runs = Runs(program, backbone, tmp_path_factory.mktemp("alone"))
    tensors = {}
    for dtype in ("float32", "bfloat16"):
        for entry in SUBJECTS:
            runs.run(f"{dtype}-{entry['name']}", [entry], "--threads", 1, "--dtype", dtype)
            tensors[dtype, entry["name"]] = runs.tensors(f"{dtype}-{entry['name']}", [entry])[entry["name"]]
    assert None not in tensors.values()
    return tensors


def differing(found, alone, dtype="float32"):
    return [name for name, tensors in found.items() if tensors != alone[dtype, name]]


def test_jobs_are_not_all_alike(alone):
    assert len(set(alone.values())) == len(alone)


# others, stages, threads, pack rows, checkpointing
COVERING = [
    (0, 1, 2, 2048, False), (1, 2, 1, 2048, False), (7, 4, 2, 2048, True), (31, 1, 2, 2048, False),
    (31, 4, 1, 300, False), (1, 1, 2, 60, True), (7, 2, 2, 60, False), (0, 4, 1, 2048, True),
]  # fmt: skip
PRODUCT = list(itertools.product((0, 1, 7, 31), (1, 2, 4), (1, 2), (60, 2048), (False, True)))


@pytest.mark.parametrize("beside,stages,threads,pack_rows,checkpointing", PRODUCT if LONG else COVERING)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_same_bits_in_any_company(runs, alone, dtype, beside, stages, threads, pack_rows, checkpointing):
    if dtype == "bfloat16" and not LONG and (beside, stages) not in ((7, 4), (31, 1)):
        pytest.skip("bfloat16: two of the covering set; all with COPPICE_TEST_LONG=1")
    subjects = [entry | {"train": entry["train"] | {"gradient_checkpointing": checkpointing}} for entry in SUBJECTS]
    jobs = subjects + others(beside)
    random.Random(f"{beside} {stages} {threads}").shuffle(jobs)
    runs.run("mixed", jobs, "--stages", stages, "--threads", threads, "--pack-rows", pack_rows, "--dtype", dtype)
    assert differing(runs.tensors("mixed", SUBJECTS), alone, dtype) == []


@pytest.mark.parametrize("seed", range(20 if LONG else 3))
def test_same_bits_after_kill_and_resume(runs, alone, seed):
    """kill -9 at random moments, each time on another number of stages and threads, until the run comes to its end."""
    numbers = random.Random(seed)
    jobs = SUBJECTS + others(7)
    for _ in range(6):
        flags = ["--stages", numbers.choice((1, 2, 4)), "--threads", numbers.choice((1, 2))]
        process = subprocess.Popen(runs.command("killed", jobs, *flags), stderr=subprocess.PIPE)
        try:
            process.wait(timeout=numbers.uniform(0.05, 1.5))
        except subprocess.TimeoutExpired:
            process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
    runs.run("killed", jobs)
    assert differing(runs.tensors("killed", SUBJECTS), alone) == []
    steps = [json.loads(line) for line in (runs.folder / "killed" / "metrics.jsonl").read_text().splitlines()]
    for entry in jobs:
        made = [line["step"] for line in steps if line["job"] == entry["name"]]
        assert made == list(range(1, entry["train"]["max_steps"] + 1)), entry["name"]


def test_stops_at_a_step_on_sigint_and_goes_on(runs, alone):
    jobs = SUBJECTS + others(7)
    process = subprocess.Popen(runs.command("stopped", jobs), stderr=subprocess.PIPE, text=True)
    metrics = runs.folder / "stopped" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "run" in errors and "--output" in errors  # the command that resumes
    runs.run("stopped", jobs)
    assert differing(runs.tensors("stopped", SUBJECTS), alone) == []


def test_a_diverging_job_fails_alone(runs, alone):
    wild = job("wild", "lora", 3, learning_rate=1e30, max_steps=10)
    done = runs.run("diverging", [wild] + SUBJECTS, expect=1)
    assert "wild" in done.stderr and "diverged" in done.stderr
    assert differing(runs.tensors("diverging", SUBJECTS), alone) == []
    assert runs.tensors("diverging", [wild]) == {"wild": None}


def test_a_job_that_cannot_be_exported_fails_alone(runs, alone):
    blocked = job("blocked", "ia3", 3)
    taken = runs.folder / "late" / "adapters" / "blocked"
    taken.mkdir(parents=True)
    (taken / "thesis.txt").write_text("not an adapter")
    done = runs.run("late", [blocked] + SUBJECTS, expect=1)
    assert "blocked" in done.stderr
    assert (taken / "thesis.txt").read_text() == "not an adapter"
    assert differing(runs.tensors("late", SUBJECTS), alone) == []
    (taken / "thesis.txt").unlink()
    runs.run("late", [blocked] + SUBJECTS, "--retry-failed")
    assert runs.tensors("late", [blocked])["blocked"] is not None


def test_more_steps_go_on_from_where_a_job_ended(runs):
    constant = [job(kind, kind, seed, lr_scheduler_type="constant") for seed, kind in enumerate(METHODS)]
    longer = [entry | {"train": entry["train"] | {"max_steps": 5}} for entry in constant]
    runs.run("grown", constant)
    runs.run("grown", longer)
    runs.run("at-once", longer)
    assert runs.tensors("grown", longer) == runs.tensors("at-once", longer)
