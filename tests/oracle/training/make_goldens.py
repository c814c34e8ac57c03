"""Writes golden/: a tiny backbone, adapters to start from, rows, and the curves that HF peft and torch make of them.

Run it again only to change what the goldens cover:  python make_goldens.py
"""

import json
import pathlib
import shutil

import peft
import torch
import transformers

from coppice_jobs import random_rows, write_rows
from training_oracle import CASES, make_adapter, make_backbone, train_reference

FOLDER = pathlib.Path(__file__).resolve().parent / "golden"
SIZES = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2)
TRAIN = dict(
    max_steps=8,
    learning_rate=1e-2,
    lr_scheduler_type="linear",
    warmup_ratio=0.2,
    weight_decay=0.1,
    max_grad_norm=0.5,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
)
METHODS = ("lora", "ia3", "prefix")


def main():
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    backbone = make_backbone(transformers.LlamaConfig, SIZES, FOLDER / "backbone")
    (backbone / "generation_config.json").unlink()
    rows = random_rows(seed=6, count=10, longest=16)
    write_rows(FOLDER / "rows.jsonl", rows)
    jobs = {}
    for case in (case for case in CASES if case.name in METHODS):
        folder = FOLDER / case.name
        model = make_adapter(case, backbone, folder)
        (folder / "README.md").unlink()
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "backbone"
        for key, value in config.items():
            if isinstance(value, list):  # sets, which peft writes in any order
                config[key] = sorted(value)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        trained = train_reference(model, case, rows, TRAIN)
        jobs[case.name] = {"loss": trained.losses, "grad_norm": trained.grad_norms}
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    curves = {"made_with": versions, "train": TRAIN, "jobs": jobs}
    (FOLDER / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
