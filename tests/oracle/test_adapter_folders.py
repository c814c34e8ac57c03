"""Adapter folders go both ways between HF peft and us: what peft writes is read and written again without a change that peft
sees, and what is made here loads in peft with every tensor in its place.

Needs COPPICE_BUILD, the build folder with tests/oracle/adapter_tool.
"""

import json
import os
import pathlib
import subprocess

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from safetensors.torch import load_file, save_file  # noqa: E402

SIZES = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=40,
    max_position_embeddings=64,
)
# What peft writes about where an adapter comes from; the rest must come back equal.
ORIGIN = {"base_model_name_or_path", "peft_version", "inference_mode", "revision", "auto_mapping", "task_type"}

LORA = [
    {},
    {"r": 4, "lora_alpha": 16, "use_rslora": True, "lora_dropout": 0.1},
    {"r": 3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    {"r": 2, "target_modules": "all-linear"},
    {"r": 2, "target_modules": r".*layers\.[02]\.mlp\.(up|down)_proj"},
    {"r": 4, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 7}},
    {"r": 4, "target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"v_proj": 3}, "layers_to_transform": [0, 2]},
    {"r": 4, "target_modules": ["q_proj", "embed_tokens"]},
    {"r": 4, "target_modules": ["v_proj", "lm_head"]},
    {"r": 4, "target_modules": ["embed_tokens", "lm_head"]},
    {"r": 4, "target_modules": ["q_proj", "o_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
]
IA3 = [
    {"target_modules": ["k_proj", "v_proj", "down_proj"]},
    {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    {"target_modules": ["q_proj", "up_proj"], "feedforward_modules": []},
]
PREFIX = [{"num_virtual_tokens": 5}, {"num_virtual_tokens": 1}]
PROMPT = [{"num_virtual_tokens": 6}, {"num_virtual_tokens": 1}]
CASES = (
    [("LORA", keys) for keys in LORA]
    + [("IA3", keys) for keys in IA3]
    + [("PREFIX_TUNING", keys) for keys in PREFIX]
    + [("PROMPT_TUNING", keys) for keys in PROMPT]
)
IDS = [f"{kind}-{number}" for number, (kind, _) in enumerate(CASES)]


@pytest.fixture(scope="session")
def tool():
    build = os.environ.get("COPPICE_BUILD")
    if not build:
        pytest.skip("COPPICE_BUILD does not name a build folder")
    path = pathlib.Path(build) / "tests" / "oracle" / "adapter_tool"
    assert path.exists(), f"{path} is not built"

    def run(*arguments):
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    run.path = path
    return run


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("backbone")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=False))
    model.save_pretrained(folder)
    return folder


def load_backbone(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def peft_config(kind, keys):
    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](task_type="CAUSAL_LM", **keys)


def save_with_peft(kind, keys, backbone, folder, seed=7):
    """A peft adapter with random values, which make a mistaken place visible where peft would start from zeros."""
    model = peft.get_peft_model(load_backbone(backbone), peft_config(kind, keys))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model


def logits(model):
    ids = torch.arange(12).reshape(1, 12) * 3 % SIZES["vocab_size"]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def load_with_peft(backbone, folder):
    return peft.PeftModel.from_pretrained(load_backbone(backbone), folder)


def meaning(folder):
    config = peft.PeftConfig.from_pretrained(folder).to_dict()
    config = {key: value for key, value in config.items() if key not in ORIGIN}
    return {key: sorted(value) if isinstance(value, (set, list)) else value for key, value in config.items()}


@pytest.mark.parametrize("kind, keys", CASES, ids=IDS)
def test_a_peft_adapter_comes_back_the_same(tool, backbone, tmp_path, kind, keys):
    model = save_with_peft(kind, keys, backbone, tmp_path / "in")
    tool("copy", backbone, tmp_path / "in", tmp_path / "out")
    theirs = load_file(tmp_path / "in" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    copies = {name for name in theirs if name.endswith("base_layer.weight")}
    assert set(ours) | copies == set(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, theirs[name]), name
    assert meaning(tmp_path / "in") == meaning(tmp_path / "out")
    assert torch.equal(logits(load_with_peft(backbone, tmp_path / "out")), logits(model))


@pytest.mark.parametrize("kind, keys", CASES, ids=IDS)
def test_an_adapter_made_here_loads_in_peft_with_every_tensor_in_its_place(tool, backbone, tmp_path, kind, keys):
    (tmp_path / "keys.json").write_text(json.dumps({"peft_type": kind, **keys}))
    tool("new", backbone, tmp_path / "keys.json", 11, tmp_path / "out")
    model = load_with_peft(backbone, tmp_path / "out")
    model.save_pretrained(tmp_path / "again")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    copies = {name for name in again if name.endswith("base_layer.weight")}
    assert set(ours) | copies == set(again)
    for name, tensor in ours.items():
        assert torch.equal(tensor, again[name]), name
    # The config that we write means to peft what the same keys mean when peft is given them.
    fresh = peft.get_peft_model(load_backbone(backbone), peft_config(kind, keys))
    fresh.save_pretrained(tmp_path / "fresh")
    assert {name: tensor.shape for name, tensor in load_file(tmp_path / "fresh" / "adapter_model.safetensors").items()} == {
        name: tensor.shape for name, tensor in again.items()
    }
    assert not torch.equal(logits(model), logits(load_backbone(backbone)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_in_half_precision_is_read(tool, backbone, tmp_path, dtype):
    save_with_peft("LORA", {}, backbone, tmp_path / "in")
    file = tmp_path / "in" / "adapter_model.safetensors"
    half = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    tool("copy", backbone, tmp_path / "in", tmp_path / "out")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(torch.equal(ours[name], tensor.float()) for name, tensor in half.items())


def test_tied_embeddings(tool, tmp_path):
    torch.manual_seed(2)
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "backbone")
    for target in ("embed_tokens", "lm_head"):
        keys = {"r": 3, "target_modules": ["q_proj", target]}
        model = save_with_peft("LORA", keys, tmp_path / "backbone", tmp_path / target)
        tool("copy", tmp_path / "backbone", tmp_path / target, tmp_path / f"{target}-out")
        loaded = load_with_peft(tmp_path / "backbone", tmp_path / f"{target}-out")
        assert torch.equal(logits(loaded), logits(model)), target


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors: tensors.pop(sorted(tensors)[0]), "is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), 'tensor "extra" is not one of this LORA adapter'),
        (lambda tensors: tensors.update({sorted(tensors)[0]: torch.zeros(2, 3)}), "has shape [2, 3]"),
        (lambda tensors: tensors.update({sorted(tensors)[0]: torch.zeros(8, 32, dtype=torch.int64)}), "has dtype I64"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tool, backbone, tmp_path, change, message):
    save_with_peft("LORA", {}, backbone, tmp_path / "in")
    file = tmp_path / "in" / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    done = subprocess.run([tool.path, "copy", backbone, tmp_path / "in", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and str(file) in done.stderr and message in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
