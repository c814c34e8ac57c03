"""`coppice tokenize` gives token for token what the `tokenizers` package gives, for vocabularies of every kind."""

import json
import os
import pathlib
import resource
import subprocess

import pytest
from tokenizer_lines import every_character, make_lines
from tokenizer_vocabularies import corpus
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("COPPICE", str(ROOT / "build" / "coppice"))
SEED = 20240607
LINES = 20_000
KINDS = ["llama2", "llama2_metaspace", "mistral", "metaspace_words", "unknown_apart", "unknown_dropped"]
KINDS += ["llama3", "qwen2", "nemo", "gpt2_digits"]


def tokenize(path, lines, folder, *options):
    text = folder / "lines.txt"
    text.write_bytes(b"".join(line + b"\n" for line in lines))
    done = subprocess.run([PROGRAM, "tokenize", str(path), str(text), *options], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(path, lines, folder, special=True):
    reference = Tokenizer.from_file(str(path))
    texts = [line.decode("utf-8", errors="replace") for line in lines]
    expected = [e.ids for e in reference.encode_batch(texts, add_special_tokens=special)]
    got = tokenize(path, lines, folder, *([] if special else ["--no-special-tokens"]))
    assert len(got) == len(expected)
    different = [i for i in range(len(lines)) if got[i] != expected[i]]
    for i in different[:5]:
        print(f"line {i}: {lines[i][:200]!r}")
        print("  expected", [reference.id_to_token(t) for t in expected[i]][:60])
        print("  got     ", [reference.id_to_token(t) for t in got[i]][:60])
    assert not different, f"{len(different)} of {len(lines)} lines differ, seed {SEED}"


@pytest.mark.parametrize("kind", KINDS)
def test_varied_lines_give_the_ids_of_the_reference(kind, tokenizers, tmp_path):
    lines = make_lines(SEED + KINDS.index(kind), LINES, corpus())
    compare(tokenizers[kind], lines, tmp_path, special=KINDS.index(kind) % 2 == 0)


@pytest.mark.parametrize("kind", ["llama3", "qwen2", "nemo", "gpt2_digits", "unknown_dropped"])
def test_every_character_gives_the_ids_of_the_reference(kind, tokenizers, tmp_path):
    compare(tokenizers[kind], every_character(), tmp_path)


@pytest.mark.parametrize("kind", ["llama2", "llama3"])
def test_special_tokens_can_be_left_out(kind, tokenizers, tmp_path):
    lines = make_lines(SEED, 200, corpus())
    with_special = tokenize(tokenizers[kind], lines, tmp_path)
    without = tokenize(tokenizers[kind], lines, tmp_path, "--no-special-tokens")
    assert all(a[1:] == b and len(a) == len(b) + 1 for a, b in zip(with_special, without))


@pytest.mark.parametrize("kind", ["llama2", "llama3"])
def test_a_megabyte_of_one_letter_takes_seconds(kind, tokenizers, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    compare(tokenizers[kind], [b"a" * 1_000_000, b"ab" * 500_000], tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 5  # of the processor, whatever else runs
