"""Bad input to `coppice run`: exit status 2, one line that names the culprit, nothing written."""

import os
import shutil

import pytest
from job_files import BACKBONE

# What is set in the job file at a path of keys, and what the line must name.
KEYS = {
    "unknown key of the file": (["jbos"], [], ["jbos", "did you mean jobs?"]),
    "no backbone": (["backbone"], None, ["backbone is missing"]),
    "backbone that is not there": (["backbone"], "nowhere", ["nowhere"]),
    "no jobs": (["jobs"], [], ["jobs is []"]),
    "bad defaults": (["defaults"], {"train": {"lerning_rate": 1}}, ["defaults.train.lerning_rate", "learning_rate?"]),
    "sweep of no job": (["sweep"], {"of": "tune", "over": {"method.r": [1]}}, ["sweep.of", "tune"]),
    "sweep without values": (["sweep"], {"of": "tone", "over": {"method.r": []}}, ["sweep.over.method.r"]),
    "bad value in a sweep": (["sweep"], {"of": "tone", "over": {"train.seed": [-1]}}, ["tone@train.seed=-1", "seed is -1"]),
    "unknown key of a job": (["jobs", 0, "prio"], 1, ["jobs.tone.prio: unknown key"]),
    "name that is no folder": (["jobs", 0, "name"], "../tone", ["jobs[0].name", "../tone"]),
    "no method": (["jobs", 0, "method"], None, ["jobs.tone.method.peft_type is missing"]),
    "unknown method": (["jobs", 0, "method", "peft_type"], "LORAX", ["peft_type", "LORAX", "LORA"]),
    "unknown key of a method": (["jobs", 0, "method", "rank"], 4, ["tone", "method.rank: unknown key"]),
    "bad value of a method": (["jobs", 0, "method", "r"], 0, ["tone", "method.r is 0"]),
    "unknown module": (["jobs", 0, "method", "target_modules"], ["q_prj"], ["q_prj"]),
    "unsupported variant": (["jobs", 0, "method", "use_dora"], True, ["tone", "method.use_dora is true"]),
    "unknown key of training": (["jobs", 0, "train", "max_step"], 1, ["jobs.tone.train.max_step", "did you mean max_steps?"]),
    "wrong type": (["jobs", 0, "train", "learning_rate"], "fast", ["jobs.tone.train.learning_rate", "fast"]),
    "value out of range": (["jobs", 0, "train", "adam_beta1"], 1.5, ["jobs.tone.train.adam_beta1 is 1.5"]),
    "refused by name": (["jobs", 0, "train", "bf16"], True, ["jobs.tone.train.bf16 is true", "--dtype"]),
    "unknown optimizer": (["jobs", 0, "train", "optim"], "adafactor", ["jobs.tone.train.optim", "adamw_torch"]),
    "evaluation without data": (["jobs", 0, "train", "eval_strategy"], "epoch", ["eval_strategy", "eval_split"]),
    "evaluation steps without data": (["jobs", 0, "train", "eval_steps"], 5, ["jobs.tone.train.eval_steps", "eval_split"]),
    "no training data": (["jobs", 0, "data", "train"], None, ["jobs.tone.data.train is missing"]),
    "training data that is not there": (["jobs", 0, "data", "train"], "none.jsonl", ["none.jsonl"]),
    "training data that is a folder": (["jobs", 0, "data", "train"], ".", ["Is a directory"]),
    "evaluation data that is not there": (["jobs", 0, "data", "eval"], "none.jsonl", ["none.jsonl"]),
    "bad template": (["jobs", 0, "data", "template"], "{question}", ["jobs.tone.data.template", "question"]),
    "template that no row fills": (["jobs", 0, "data", "template"], "{instruction}", ["rows.jsonl:1:", "data.template"]),
    "lines longer than max_length": (["jobs", 0, "data", "max_length"], 3, ["rows.jsonl:1:", "max_length is 3"]),
    "split that leaves nothing": (["jobs", 0, "data", "eval_split"], 4, ["rows.jsonl", "eval_split holds out 4 of 4"]),
    "sequence above a micro-batch": (["jobs", 0, "train", "max_tokens_per_micro_batch"], 3, ["jobs.tone", "is 3"]),
    "adapter that is not there": (["jobs", 0, "init_adapter"], "none", ["none"]),
}

ROWS = {
    "empty file": ("", ["rows.jsonl: the file has no rows"]),
    "no JSON": ('{"text": "a"}\n{"text"\n', ["rows.jsonl:2:"]),
    "no object": ('{"text": "a"}\n3\n', ["rows.jsonl:2"]),
    "not UTF-8": (b'{"text": "a"}\n{"text": "\xff"}\n', ["rows.jsonl:2"]),
    "unknown form": ('{"question": "a"}\n', ["rows.jsonl:1:", "question"]),
    "mixed form": ('{"text": "a", "prompt": "b"}\n', ["rows.jsonl:1:", "prompt"]),
    "half a form": ('{"prompt": "b"}\n', ["rows.jsonl:1:", "completion"]),
    "empty completion": ('{"prompt": "a", "completion": ""}\n', ["rows.jsonl:1:", "completion is empty"]),
    "id outside the vocabulary": ('{"input_ids": [1, 4096]}\n', ["rows.jsonl:1:", "4096"]),
    "labels of another length": ('{"input_ids": [1, 2], "labels": [1]}\n', ["rows.jsonl:1:", "labels"]),
    "no target": ('{"input_ids": [1, 2], "labels": [1, -100]}\n', ["rows.jsonl:1:", "target"]),
}

FILES = {
    "empty file": ("", ["jobs.yaml"]),
    "no YAML": ("backbone: [", ["jobs.yaml:1"]),
    "a key twice": ("backbone: a\nbackbone: b\n", ["jobs.yaml:2", "backbone"]),
    "a list": ("- 1\n", ["jobs.yaml"]),
}


def expect_refusal(result, files, names):
    """Exit status 2, nothing on the standard output, one line on the other one, and no folder left behind."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("coppice: "), result.stderr
    for name in names:
        assert name in result.stderr
    assert not files.output.exists()


def set_path(where, path, value):
    *before, last = path
    for key in before:
        where = where[key]
    if value is None:
        where.pop(last)
    else:
        where[last] = value


def test_the_job_file_itself_is_accepted(coppice, files):
    result = coppice("run", files.write(), "--output", files.output, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "tone" in result.stdout
    assert not files.output.exists()


@pytest.mark.parametrize("case", KEYS)
def test_bad_keys(coppice, files, case):
    path, value, names = KEYS[case]
    set_path(files.jobs, path, value)
    expect_refusal(coppice("run", files.write(), "--output", files.output), files, names)


@pytest.mark.parametrize("case", ROWS)
def test_bad_rows(coppice, files, case):
    rows, names = ROWS[case]
    expect_refusal(coppice("run", files.write(rows=rows), "--output", files.output), files, names)


@pytest.mark.parametrize("case", FILES)
def test_bad_files(coppice, files, case):
    text, names = FILES[case]
    expect_refusal(coppice("run", files.write(text=text), "--output", files.output), files, names)


def test_no_file(coppice, files):
    expect_refusal(coppice("run", files.folder / "none.yaml", "--output", files.output), files, ["none.yaml"])


@pytest.mark.parametrize("override", ["train.max_steps=3", "jobs.tune.train.max_steps=3", "defaults.train.max_steps"])
def test_bad_overrides(coppice, files, override):
    result = coppice("run", files.write(), "--output", files.output, "--set", override)
    expect_refusal(result, files, [override])


def test_data_in_a_pipe_is_refused_not_waited_for(coppice, files):
    files.write()
    (files.folder / "rows.jsonl").unlink()
    os.mkfifo(files.folder / "rows.jsonl")
    refused = coppice("run", files.path, "--output", files.output, timeout_s=30)
    assert refused.returncode == 2 and "rows.jsonl: is a pipe" in refused.stderr


def test_one_invalid_job_refuses_the_file(coppice, files):
    files.jobs["jobs"].append({**files.job, "name": "late", "data": {"train": "none.jsonl"}})
    expect_refusal(coppice("run", files.write(), "--output", files.output), files, ["none.jsonl"])


@pytest.mark.parametrize(
    "name, change, names",
    [
        ("config.json", lambda text: text.replace(b'"llama"', b'"unheard_of"'), ["config.json", "unheard_of"]),
        ("config.json", lambda text: text[: len(text) // 2], ["config.json"]),
        ("model.safetensors", lambda text: text[: len(text) // 2], ["model.safetensors"]),
        ("model.safetensors", lambda text: b"\xff" * 8 + text[8:], ["model.safetensors"]),
        ("tokenizer.json", lambda text: text[: len(text) // 2], ["tokenizer.json"]),
    ],
)
def test_bad_backbones(coppice, files, name, change, names):
    backbone = files.folder / "backbone"
    shutil.copytree(BACKBONE, backbone)
    (backbone / name).write_bytes(change((BACKBONE / name).read_bytes()))
    files.jobs["backbone"] = "backbone"
    expect_refusal(coppice("run", files.write(), "--output", files.output), files, names)


def test_output_that_is_a_file(coppice, files):
    files.output.write_text("mine")
    result = coppice("run", files.write(), "--output", files.output)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.count("\n") == 1 and str(files.output) in result.stderr
    assert files.output.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_in_a_folder_that_cannot_be_written(coppice, files):
    files.folder.joinpath("closed").mkdir(mode=0o500)
    result = coppice("run", files.write(), "--output", files.folder / "closed" / "out")
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.count("\n") == 1 and "closed" in result.stderr
