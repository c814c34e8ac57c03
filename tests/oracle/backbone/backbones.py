"""Small random backbones of every family, with every kind of rotary embedding and every variant of files and configs."""

import dataclasses
import json
import pathlib

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SIZES = dict(
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
)
# Every token decodes to plain characters, so that text tells tokens apart.
LETTERS = [chr(c) for c in range(0x21, 0x7F)] + ["Ġ"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("i", "n"), ("Ġ", "a"), ("in", "g"), ("e", "r")]
VOCABULARY = LETTERS + [a + b for a, b in MERGES] + ["<eos>"]
EOS = len(VOCABULARY) - 1


@dataclasses.dataclass
class Variant:
    name: str
    family: str
    keys: dict = dataclasses.field(default_factory=dict)
    dtype: torch.dtype = torch.float32  # of the file
    shards: str | None = None  # max_shard_size
    version4: bool = False  # config.json as transformers 4 wrote it
    bare: bool = False  # the model without its head: tensors without the prefix
    keep_head: bool = False  # a tied head that is saved all the same


def rope(kind, **keys):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **keys}}


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = dict(factor=4.0, original_max_position_embeddings=64)
WINDOWS = dict(use_sliding_window=True, sliding_window=5)

VARIANTS = [
    Variant("llama", "llama"),
    Variant("llama-tied", "llama", dict(tie_word_embeddings=True)),
    Variant("llama-tied-with-head", "llama", dict(tie_word_embeddings=True), keep_head=True),
    Variant("llama-tied-bare", "llama", dict(tie_word_embeddings=True), bare=True),
    Variant("llama-biases", "llama", dict(attention_bias=True, mlp_bias=True)),
    Variant("llama-head-dim", "llama", dict(head_dim=20)),
    Variant("llama-a-key-head-a-head", "llama", dict(num_key_value_heads=4)),
    Variant("llama-one-key-head", "llama", dict(num_key_value_heads=1)),
    Variant("llama-gelu", "llama", dict(hidden_act="gelu")),
    Variant("llama-gelu-tanh", "llama", dict(hidden_act="gelu_pytorch_tanh")),
    Variant("llama-gelu-new", "llama", dict(hidden_act="gelu_new")),
    Variant("llama-relu", "llama", dict(hidden_act="relu")),
    Variant("llama-epsilon", "llama", dict(rms_norm_eps=0.1)),
    Variant("llama-theta", "llama", rope("default", rope_theta=500000.0)),
    Variant("llama-linear", "llama", rope("linear", factor=3.0)),
    Variant("llama-dynamic", "llama", dict(max_position_embeddings=40, **rope("dynamic", factor=2.5))),
    Variant("llama-llama3", "llama", rope("llama3", **LLAMA3)),
    Variant("llama-yarn", "llama", rope("yarn", **YARN)),
    Variant("llama-yarn-mscale", "llama", rope("yarn", mscale=0.7, mscale_all_dim=1.2, beta_fast=16.0, beta_slow=2.0, **YARN)),
    Variant("llama-yarn-whole", "llama", rope("yarn", attention_factor=0.9, truncate=False, **YARN)),
    Variant("llama-bf16", "llama", dtype=torch.bfloat16),
    Variant("llama-f16", "llama", dtype=torch.float16),
    Variant("llama-shards", "llama", shards="40KB"),
    Variant("llama-version4", "llama", rope("llama3", **{**LLAMA3, "rope_theta": 500000.0}), version4=True),
    Variant("llama-version4-dynamic", "llama", dict(max_position_embeddings=40, **rope("dynamic", factor=2.0)), version4=True),
    Variant("mistral", "mistral", dict(sliding_window=None)),
    Variant("mistral-window", "mistral", dict(sliding_window=7)),
    Variant("mistral-window-of-one", "mistral", dict(sliding_window=1)),
    Variant("mistral-head-dim", "mistral", dict(sliding_window=9, head_dim=16), dtype=torch.bfloat16),
    Variant("mistral-version4", "mistral", dict(sliding_window=64), version4=True),
    Variant("qwen2", "qwen2"),
    Variant("qwen2-tied", "qwen2", dict(tie_word_embeddings=True), dtype=torch.bfloat16),
    Variant("qwen2-window", "qwen2", dict(max_window_layers=1, **WINDOWS)),
    Variant(
        "qwen2-layer-types",
        "qwen2",
        dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"], **WINDOWS),
    ),
    Variant("qwen2-yarn", "qwen2", rope("yarn", **YARN)),
    Variant("qwen2-version4", "qwen2", rope("yarn", **{**YARN, "rope_theta": 1000000.0}), version4=True, shards="60KB"),
    Variant("qwen3", "qwen3", dict(head_dim=32)),
    Variant("qwen3-tied", "qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    Variant("qwen3-biases", "qwen3", dict(head_dim=16, attention_bias=True)),
    Variant("qwen3-window", "qwen3", dict(head_dim=16, max_window_layers=2, **WINDOWS)),
    Variant("qwen3-linear", "qwen3", dict(head_dim=16, **rope("linear", factor=2.0))),
]


def config_class(family):
    return {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }[family]


def randomize(model, seed):
    """Values far enough from nothing that every part of the model shows in its logits, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.5 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(0.25 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)


def write_as_version4(folder):
    """rope_theta beside rope_scaling, which names its kind "type"; torch_dtype for dtype; defaults of generation in the config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **parameters}
    config["torch_dtype"] = config.pop("dtype")
    config.update(transformers_version="4.46.0", temperature=0.6, top_p=0.9, _name_or_path="somewhere/else")
    path.write_text(json.dumps(config, indent=2))


def build(variant, folder):
    """Writes the backbone's folder; the reference is what transformers reads from it."""
    config = config_class(variant.family)(
        **{**SIZES, "vocab_size": len(VOCABULARY), "bos_token_id": None, "eos_token_id": EOS, **variant.keys}
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model, seed=len(variant.name))
    saved = (model.model if variant.bare else model).to(variant.dtype)
    saved.save_pretrained(folder, **({"max_shard_size": variant.shards} if variant.shards else {}))
    if variant.keep_head:
        keep_tied_head(folder)
    if variant.version4:
        write_as_version4(folder)
    if variant.shards:
        assert (folder / "model.safetensors.index.json").exists()
    return folder


def keep_tied_head(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(VOCABULARY)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(pathlib.Path(folder) / "tokenizer.json"))
    return tokenizer


def reference(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def log_probabilities(folder, sequences):
    """Of every token but the first, in float32. Each sequence meets a fresh model: dynamic rope remembers earlier lengths."""
    result = []
    dynamic = "dynamic" in json.dumps(json.loads((folder / "config.json").read_text()))
    model = reference(folder)
    for ids in sequences:
        if dynamic:
            model = reference(folder)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
        scores = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])
        result.append(scores[:, 0].tolist())
    return result
