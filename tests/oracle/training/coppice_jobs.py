"""Rows of data, job files and metrics of the program; nothing here needs torch."""

import json
import pathlib
import random

VOCABULARY = 128


def random_rows(seed, count=14, longest=24):
    """Token ids with labels; every third row begins with tokens that are no targets, as a prompt does."""
    numbers = random.Random(seed)
    rows = []
    for number in range(count):
        ids = [numbers.randrange(VOCABULARY) for _ in range(numbers.randint(3, longest))]
        ignored = len(ids) // 2 if number % 3 == 0 else 0
        rows.append({"input_ids": ids, "labels": [-100] * ignored + ids[ignored:]})
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def job(name, data, train, eval_data=None, **keys):
    """A job that takes its rows in the file's order."""
    files = {"train": str(data)} if eval_data is None else {"train": str(data), "eval": str(eval_data)}
    return {"name": name, "data": {**files, "shuffle": False}, "train": train, **keys}


class Run:
    """A run in float32 of all jobs together; the adapters are in adapters/JOB."""

    def __init__(self, coppice, backbone, jobs, folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "jobs.yaml"
        path.write_text(json.dumps({"backbone": str(backbone), "jobs": jobs}, indent=1))  # JSON is YAML
        coppice("run", path, "--output", folder / "out", "--dtype", "float32", "--progress", "none")
        self.adapters = folder / "out" / "adapters"
        self.lines = read_lines(folder / "out" / "metrics.jsonl")

    def curve(self, name, key="loss"):
        """A number of every update of a job."""
        lines = [line for line in self.lines if line["job"] == name and "loss" in line]
        assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        return [line[key] for line in lines]

    def eval_loss(self, name):
        """After the last step."""
        return [line["eval_loss"] for line in self.lines if line["job"] == name and "eval_loss" in line][-1]


def score(coppice, backbone, adapter, data, output):
    """The log-probabilities of every target of each row."""
    coppice("score", "--backbone", backbone, "--adapter", adapter, "--data", data, "--output", output, "--dtype", "float32")
    return [line["logprobs"] for line in read_lines(output)]


def largest_difference(ours, theirs):
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
