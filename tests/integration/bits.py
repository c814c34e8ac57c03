"""Jobs whose exported tensors must have the same bits however they are run: five subjects, one of each kind of PEFT, others beside them,
and the folder in which they run."""

import itertools
import json
import os
import random
import subprocess

import numpy
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
        """In float32, which the bits of most tests are compared in, unless flags say otherwise."""
        flags = flags if "--dtype" in flags else ("--dtype", "float32", *flags)
        path = self.write(name, jobs)
        return [str(self.program), "run", str(path), "--output", str(self.folder / name), "--progress", "none", *map(str, flags)]

    def run(self, name, jobs, *flags, expect=0, before=()):
        """before: what starts the program, as mpirun with its options."""
        done = subprocess.run([*before, *self.command(name, jobs, *flags)], capture_output=True, text=True, timeout=600)
        assert done.returncode == expect, done.stderr
        return done

    def tensors(self, name, jobs):
        found = {}
        for entry in jobs:
            path = self.folder / name / "adapters" / entry["name"] / "adapter_model.safetensors"
            found[entry["name"]] = path.read_bytes() if path.exists() else None
        return found


def differing(found, alone, dtype="float32"):
    return [name for name, tensors in found.items() if tensors != alone[dtype, name]]
