"""`coppice inspect` describes backbones and adapters as transformers and peft count them."""

import json

import pytest
import torch
from backbones import VARIANTS, Variant, build, reference, write_tokenizer


def grouped(number):
    return f"{number:,}".replace(",", " ")


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.name in ("llama-tied", "qwen2-version4", "qwen3-biases")], ids=lambda v: v.name
)
def test_backbone(coppice, tmp_path, variant):
    backbone = build(variant, tmp_path / "backbone")
    write_tokenizer(backbone)
    text = coppice.output_of("inspect", backbone, computes=False)
    parameters = sum(p.numel() for p in reference(backbone).parameters())
    assert variant.family in text.splitlines()[0]
    assert grouped(parameters) in text
    assert "[72, 48]" in text  # gate_proj


def test_adapter(coppice, tmp_path):
    peft = pytest.importorskip("peft")
    model = reference(build(Variant("llama", "llama"), tmp_path / "backbone"))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    parameters = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    text = coppice.output_of("inspect", tmp_path / "adapter", computes=False)
    assert text.splitlines()[0].split() == ["adapter", "LORA"]
    assert grouped(parameters) in text
    assert "[4, 48]" in text


def test_neither(coppice, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        done = coppice("inspect", path, computes=False)
        assert done.returncode == 2
        assert str(path) in done.stderr


def test_fingerprint_is_of_the_values(coppice, tmp_path):
    def fingerprint(folder):
        text = coppice.output_of("inspect", folder, computes=False)
        return next(line.split()[1] for line in text.splitlines() if line.startswith("fingerprint"))

    whole = build(Variant("llama", "llama"), tmp_path / "whole")
    same = build(Variant("llama", "llama", shards="40KB"), tmp_path / "shards")
    rounded = build(Variant("llama", "llama", dtype=torch.bfloat16), tmp_path / "rounded")
    assert fingerprint(whole) == fingerprint(same)
    assert fingerprint(whole) != fingerprint(rounded)
    config = whole / "config.json"
    keys = json.loads(config.read_text())
    config.write_text(json.dumps({**keys, "rms_norm_eps": 2e-5}))
    assert fingerprint(whole) != fingerprint(same)
