"""Writes tests/unit/worker/backbone/rope_golden.json: rotary frequencies as transformers computes them, for configs as
transformers 4 and 5 write them. Run again only when a case is added; the unit test reads the file.

    python tests/oracle/make_rope_golden.py
"""

import json
import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 32}

CASES = [
    ("default", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, [16]),
    ("default of version 4", {"rope_theta": 1000000.0, "rope_scaling": None}, [16]),
    ("default when absent", {}, [16]),
    ("linear", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}}, [16]),
    ("linear under type", {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.5}}, [16]),
    (
        "dynamic",
        {"max_position_embeddings": 128, "rope_theta": 10000.0, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        [16, 128, 129, 300, 5000],
    ),
    (
        "dynamic, odd factor",
        {"max_position_embeddings": 100, "rope_parameters": {"rope_type": "dynamic", "factor": 3.3, "rope_theta": 5e5}},
        [100, 101, 777],
    ),
    (
        "llama3",
        {
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        [16],
    ),
    (
        "llama3 in a small space",
        {
            "max_position_embeddings": 256,
            "rope_parameters": {
                "factor": 4.0,
                "high_freq_factor": 3.0,
                "low_freq_factor": 1.5,
                "original_max_position_embeddings": 64,
                "rope_theta": 10000.0,
                "rope_type": "llama3",
            },
        },
        [16],
    ),
    (
        "yarn",
        {
            "max_position_embeddings": 4096,
            "rope_theta": 1000000.0,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
        },
        [16],
    ),
    (
        "yarn with everything",
        {
            "head_dim": 48,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "mscale": 0.7,
                "mscale_all_dim": 1.3,
                "truncate": False,
                "rope_theta": 10000.0,
            },
        },
        [16],
    ),
    (
        "yarn with its own attention factor",
        {
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 256,
                "attention_factor": 0.875,
                "mscale": 1.0,
                "rope_theta": 10000.0,
            },
        },
        [16],
    ),
]


def frequencies(config, length):
    """The inverse frequencies and the factor on cos and sin for one sequence of this length."""
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        return LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    # The frequencies of the start, until a sequence is longer than what was trained: see dynamic_rope_update.
    longer = length > config.max_position_embeddings
    return ROPE_INIT_FUNCTIONS[kind](config, seq_len=torch.tensor(length) if longer else None)


def main():
    golden = []
    for name, keys, lengths in CASES:
        written = {"model_type": "llama", **SIZES, **keys}
        for length in lengths:
            inverse, scale = frequencies(LlamaConfig(**SIZES, **json.loads(json.dumps(keys))), length)
            golden.append(
                {"name": name, "config": written, "length": length, "inverse": inverse.tolist(), "scale": float(scale)}
            )
    path = pathlib.Path(__file__).parent.parent / "unit/worker/backbone/rope_golden.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in golden) + "\n]\n")


if __name__ == "__main__":
    main()
