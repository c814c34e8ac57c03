"""Damaged or unknown backbones and adapters through the program: exit status 2, one line that names the culprit, nothing written."""

import json
import random
import shutil

import pytest
from job_files import BACKBONE


@pytest.fixture
def backbone(tmp_path):
    folder = tmp_path / "backbone"
    shutil.copytree(BACKBONE, folder)
    return folder


def refused(done, *words):
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def run(coppice, files, backbone):
    files.jobs["backbone"] = str(backbone)
    files.write()
    done = coppice("run", files.path, "--output", files.output)
    assert not files.output.exists()
    return done


@pytest.mark.parametrize("bytes_left", [0, 7, 8, 1000, 20000, -1])
def test_cut_weights(coppice, files, backbone, bytes_left):
    path = backbone / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:bytes_left])
    refused(run(coppice, files, backbone), "model.safetensors")


@pytest.mark.parametrize("seed", range(20))
def test_a_rotten_header_never_crashes(coppice, backbone, seed):
    numbers = random.Random(seed)
    path = backbone / "model.safetensors"
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little")
    for _ in range(numbers.choice((1, 3, 30))):
        content[numbers.randrange(8 + header)] = numbers.randrange(256)
    path.write_bytes(content)
    done = coppice("inspect", backbone)
    assert done.returncode in (0, 2), (seed, done.returncode, done.stderr)
    if done.returncode == 2:
        refused(done, str(backbone))


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"model_type": "mamba"}, ["model_type", "mamba", "llama"]),
        ({"hidden_size": 255}, ["model.embed_tokens.weight", "[4096, 255]"]),
        ({"hidden_size": 512, "head_dim": 64}, ["model.embed_tokens.weight", "[4096, 512]"]),
        ({"num_hidden_layers": 9}, ["model.layers.8"]),
        ({"num_hidden_layers": 7}, ["model.layers.7"]),
        ({"hidden_act": "swoosh"}, ["hidden_act", "swoosh", "silu"]),
        ({"rope_parameters": {"rope_type": "spiral"}}, ["rope_type", "spiral"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantization_config"]),
        ({"vocab_size": -1}, ["vocab_size", "-1"]),
    ],
)
def test_configs_that_do_not_fit(coppice, files, backbone, changes, words):
    edit_config(backbone, **changes)
    refused(run(coppice, files, backbone), *words)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(coppice, files, backbone, name):
    (backbone / name).unlink()
    refused(run(coppice, files, backbone), name)


def test_text_without_a_tokenizer(coppice, files, backbone):
    (backbone / "tokenizer.json").unlink()
    refused(run(coppice, files, backbone), "tokenizer.json")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_that_are_no_json(coppice, files, backbone, name):
    (backbone / name).write_text('{"a": ')
    refused(run(coppice, files, backbone), name)


def test_adapters_that_do_not_fit(coppice, files, backbone, tmp_path):
    files.write()
    assert coppice("run", files.path, "--output", files.output).returncode == 0
    adapter = files.output / "adapters" / "tone"
    generate = ["generate", "--backbone", backbone, "--prompt", "a", "--max-new-tokens", 1, "--adapter"]
    assert coppice(*generate, adapter).returncode == 0
    refused(coppice(*generate, tmp_path / "nowhere"), "nowhere")
    weights = adapter / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    refused(coppice(*generate, adapter), "adapter_model.safetensors")
    weights.write_bytes(content)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    refused(coppice(*generate, adapter), "lora_A")
