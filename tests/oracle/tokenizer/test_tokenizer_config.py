"""What tokenizer_config.json beside a tokenizer.json changes, `coppice tokenize` changes as transformers' AutoTokenizer does."""

import json

import pytest
from test_tokenizer import SEED, tokenize
from tokenizer_lines import make_lines
from tokenizer_vocabularies import corpus
from transformers import AutoTokenizer

TOKEN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}

CONFIGS = {
    "nothing": {},
    "no_bos": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False},
    "eos_too": {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True},
    "eos_only": {"bos_token": "<s>", "eos_token": "</s>", "add_eos_token": True},
    "bos_unknown": {"eos_token": "</s>", "add_bos_token": True},
    "bos_null": {"bos_token": None, "eos_token": "</s>", "add_bos_token": True},
    "other_bos": {"bos_token": "<corner>", "eos_token": "<end>", "add_bos_token": True},
    "new_tokens": {"bos_token": "<s>", "pad_token": "<pad>", "extra_special_tokens": ["<new>", "self"]},
    "old_list": {"bos_token": "<s>", "additional_special_tokens": ["<new>", "<other>"]},
    "named": {"extra_special_tokens": {"image_token": "<new>"}},
    "word_of_the_vocabulary": {"pad_token": "return", "unk_token": "import"},
    "object_token": {"bos_token": dict(TOKEN, content="<s>", __type="AddedToken"), "add_bos_token": True},
    "changed_properties": {
        "bos_token": "<s>",
        "added_tokens_decoder": {"1": dict(TOKEN, content="<s>", lstrip=True, rstrip=True)},
    },
    "split_special": {"bos_token": "<s>", "split_special_tokens": True},
    "meaningless_here": {"model_max_length": 16, "chat_template": "x", "clean_up_tokenization_spaces": True},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["llama2", "unknown_apart"])
def test_config_is_honoured_as_transformers_does(kind, name, tokenizers, tmp_path):
    folder = tmp_path / "backbone"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizers[kind].read_bytes())
    config = dict(CONFIGS[name], tokenizer_class="PreTrainedTokenizerFast")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    reference = AutoTokenizer.from_pretrained(folder)
    words = ["<new>", "<pad>", "<other>", "  <s>  </s> x", "return import", "<new><s>self"]
    lines = make_lines(SEED, 300, corpus() + words * 2000) + [word.encode() for word in words]
    expected = [reference(line.decode("utf-8", errors="replace"))["input_ids"] for line in lines]
    got = tokenize(folder, lines, tmp_path)
    assert [g for g, e in zip(got, expected) if g != e] == []
    assert len(got) == len(expected)
