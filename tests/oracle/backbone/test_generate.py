"""`coppice generate` writes what transformers writes, token by token with a cache of keys and values."""

import dataclasses
import json

import pytest
import torch
from backbones import EOS, VARIANTS, Variant, build, reference, write_tokenizer

PROMPT = "the thing and another"
NEW_TOKENS = 40

# One of each kind that decoding meets in its own way: windows, dynamic rope that grows past the trained positions while it writes.
NAMES = [
    "llama",
    "llama-tied",
    "llama-biases",
    "llama-dynamic",
    "llama-llama3",
    "llama-yarn",
    "mistral-window",
    "qwen2-layer-types",
    "qwen3-window",
    "qwen3-biases",
]


def continuation(backbone, tokenizer, prompt, stops=(EOS,)):
    ids = tokenizer.encode(prompt).ids
    with torch.no_grad():
        whole = reference(backbone).generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=list(stops) or None,
            pad_token_id=EOS,
        )[0].tolist()
    if whole[-1] in stops:
        whole.pop()
    return tokenizer.decode(whole)[len(tokenizer.decode(ids)) :], whole[len(ids) :]


def generate(coppice, backbone, *more):
    return coppice.output_of("generate", "--backbone", backbone, "--max-new-tokens", NEW_TOKENS, *more)


@pytest.fixture
def llama(tmp_path):
    backbone = build(Variant("llama", "llama"), tmp_path / "backbone")
    return backbone, write_tokenizer(backbone)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name in NAMES], ids=lambda variant: variant.name)
def test_greedy_text_is_that_of_transformers(coppice, tmp_path, variant):
    endless = dataclasses.replace(variant, keys={**variant.keys, "eos_token_id": None})
    backbone = build(endless, tmp_path / "backbone")
    tokenizer = write_tokenizer(backbone)
    expected, tokens = continuation(backbone, tokenizer, PROMPT, stops=())
    assert len(tokens) == NEW_TOKENS
    assert generate(coppice, backbone, "--prompt", PROMPT) == expected + "\n"


def test_stops_at_every_end_of_sequence_token(coppice, llama):
    backbone, tokenizer = llama
    _, tokens = continuation(backbone, tokenizer, PROMPT)
    stop = tokens[6]
    expected, _ = continuation(backbone, tokenizer, PROMPT, stops=(EOS, stop))
    path = backbone / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [EOS, stop]}))
    assert generate(coppice, backbone, "--prompt", PROMPT) == expected + "\n"


def test_several_prompts(coppice, llama):
    backbone, tokenizer = llama
    prompts = ["the", "a ring"]
    texts = [continuation(backbone, tokenizer, prompt)[0] for prompt in prompts]
    written = generate(coppice, backbone, "--prompt", prompts[0], "--prompt", prompts[1])
    assert written == f">>> {prompts[0]}\n{texts[0]}\n\n>>> {prompts[1]}\n{texts[1]}\n"


def test_a_seed_says_what_is_sampled(coppice, llama):
    backbone, _ = llama

    def text(*options):
        return generate(coppice, backbone, "--prompt", PROMPT, *options)

    hot = ["--temperature", "2.0"]
    assert text(*hot, "--seed", "5") == text(*hot, "--seed", "5", "--threads", "1")
    assert text(*hot, "--seed", "5") != text(*hot, "--seed", "6")
    # So cold, or so narrow, that only the likeliest token is left.
    assert text("--temperature", "0.0001") == text()
    assert text(*hot, "--top-p", "0.000001") == text()


def test_refuses_what_it_cannot_do(coppice, tmp_path, llama):
    backbone, _ = llama
    for options, word in [
        (["--prompt", ""], "prompt"),
        (["--prompt", "the", "--temperature", "-1"], "temperature"),
        (["--prompt", "the", "--top-p", "0"], "top"),
        (["--prompt", "the", "--max-new-tokens", "0"], "max-new-tokens"),
    ]:
        done = coppice("generate", "--backbone", backbone, *options)
        assert done.returncode == 2
        assert word in done.stderr
        assert done.stdout == ""
    bare = build(Variant("qwen2", "qwen2"), tmp_path / "bare")
    done = coppice("generate", "--backbone", bare, "--prompt", "the")
    assert done.returncode == 2
    assert "tokenizer.json" in done.stderr
