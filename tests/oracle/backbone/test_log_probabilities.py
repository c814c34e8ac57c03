"""`coppice score` gives the log-probabilities of transformers in float32, for every family and variant of a backbone."""

import json
import math
import random

import pytest
from backbones import VARIANTS, VOCABULARY, Variant, build, log_probabilities

TOLERANCE = 1e-4
LENGTHS = [2, 3, 7, 8, 17, 40, 41, 64, 150]


def random_sequences(seed=1):
    numbers = random.Random(seed)
    return [[numbers.randrange(len(VOCABULARY)) for _ in range(length)] for length in LENGTHS]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score(coppice, backbone, data, output, *more):
    text = coppice.output_of("score", "--backbone", backbone, "--data", data, "--output", output, *more)
    return [json.loads(line) for line in output.read_text().splitlines()], text


def largest_difference(a, b):
    assert len(a) == len(b)
    return max(abs(x - y) for x, y in zip(a, b))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_log_probabilities_are_those_of_transformers(coppice, tmp_path, variant):
    backbone = build(variant, tmp_path / "backbone")
    sequences = random_sequences()
    data = write_rows(tmp_path / "data.jsonl", [{"input_ids": ids} for ids in sequences])
    rows, summary = score(coppice, backbone, data, tmp_path / "scores.jsonl")
    expected = log_probabilities(backbone, sequences)
    assert [row["tokens"] for row in rows] == sequences
    assert all("positions" not in row for row in rows)
    for row, scores in zip(rows, expected):
        assert largest_difference(row["logprobs"], scores) < TOLERANCE
    # The test is worth something only if the backbone has opinions.
    flat = [score for scores in expected for score in scores]
    assert max(flat) - min(flat) > 3
    perplexity = math.exp(-sum(flat) / len(flat))
    words = summary.split()
    assert words[0] == "perplexity" and float(words[1]) == pytest.approx(perplexity, rel=1e-4)
    assert f"{len(flat)} tokens" in summary


def test_a_line_scores_the_same_alone(coppice, tmp_path):
    backbone = build(Variant("llama", "llama"), tmp_path / "backbone")
    sequences = random_sequences(2)
    together, _ = score(
        coppice,
        backbone,
        write_rows(tmp_path / "data.jsonl", [{"input_ids": ids} for ids in sequences]),
        tmp_path / "together.jsonl",
    )
    for number in (0, 4, len(sequences) - 1):
        data = write_rows(tmp_path / f"{number}.jsonl", [{"input_ids": sequences[number]}])
        alone, _ = score(coppice, backbone, data, tmp_path / f"alone-{number}.jsonl", "--threads", "1")
        assert alone == [together[number]]  # to the bit


def test_labels_say_which_tokens_are_predicted(coppice, tmp_path):
    backbone = build(Variant("qwen2", "qwen2"), tmp_path / "backbone")
    ids = random_sequences(3)[4]
    labels = [-100 if i < 5 or i == 9 else token for i, token in enumerate(ids)]
    data = write_rows(tmp_path / "data.jsonl", [{"input_ids": ids, "labels": labels}])
    rows, _ = score(coppice, backbone, data, tmp_path / "scores.jsonl")
    positions = [i for i, label in enumerate(labels) if i > 0 and label != -100]
    assert rows[0]["positions"] == positions
    expected = log_probabilities(backbone, [ids])[0]
    assert largest_difference(rows[0]["logprobs"], [expected[i - 1] for i in positions]) < TOLERANCE


@pytest.mark.parametrize(
    "rows, words",
    [
        ([{"input_ids": [1, 2]}, {"input_ids": [1, len(VOCABULARY)]}], ["data.jsonl:2"]),
        ([{"input_ids": [1]}], ["data.jsonl:1"]),
        ([{"text": "the"}], ["tokenizer"]),
        ([], ["data.jsonl"]),
    ],
)
def test_bad_data_leaves_no_output(coppice, tmp_path, rows, words):
    backbone = build(Variant("llama", "llama"), tmp_path / "backbone")
    data = write_rows(tmp_path / "data.jsonl", rows)
    output = tmp_path / "scores.jsonl"
    done = coppice("score", "--backbone", backbone, "--data", data, "--output", output)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words)
    assert not output.exists()
    assert done.stdout == ""


def test_damaged_backbones_are_refused(coppice, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"input_ids": [1, 2, 3]}])
    backbone = build(Variant("llama", "llama"), tmp_path / "backbone")
    file = backbone / "model.safetensors"
    config = backbone / "config.json"
    whole, keys = file.read_bytes(), json.loads(config.read_text())

    def refusal():
        done = coppice("score", "--backbone", backbone, "--data", data, "--output", tmp_path / "scores.jsonl")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "scores.jsonl").exists()
        return done.stderr

    file.write_bytes(whole[:-3])
    assert "model.safetensors" in refusal()
    file.write_bytes(whole)
    for key, value in [("model_type", "gpt2"), ("num_hidden_layers", 2), ("head_dim", 10), ("logit_scale", 0.5)]:
        config.write_text(json.dumps({**keys, key: value}))
        message = refusal()
        assert key in message or "layers.2" in message or "shape" in message
    config.unlink()
    assert "config.json" in refusal()
