#!/usr/bin/env python3
"""Two stages of one thread under mpirun against one stage of two threads in one process, in turn (A B A B ...).

    pipeline_speed.py --program build/coppice --backbone DIR [--jobs 4] [--length 256] [--steps 24] [--rounds 3] [--dtype float32]

Each run trains LoRA jobs of rank 16 on random tokens, one sequence a step. Prints tokens/s of both (updates after the first quarter of
the run's steps), their ratio pair by pair, the split's own imbalance (work of the busiest stage over the mean, from the trace), the
ratio with that taken out, and the waits of the busiest stage.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile

import pipeline_waits


def write_jobs(folder, options, vocabulary):
    numbers = random.Random(7)
    for job in range(options.jobs):
        rows = ([numbers.randrange(vocabulary) for _ in range(options.length)] for _ in range(options.steps))
        text = "".join(json.dumps({"input_ids": row}) + "\n" for row in rows)
        (folder / f"{job}.jsonl").write_text(text)
    method = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": "all-linear"}
    train = {"max_steps": options.steps, "per_device_train_batch_size": 1}
    jobs = [{"name": f"job{job}", "method": method, "train": train, "data": {"train": f"{job}.jsonl"}} for job in range(options.jobs)]
    path = folder / "jobs.yaml"
    path.write_text(json.dumps({"backbone": str(pathlib.Path(options.backbone).resolve()), "jobs": jobs}))
    return path


def tokens_per_second(folder):
    updates = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates = [update for update in updates if "loss" in update]
    begin = updates[len(updates) // 4]["time"]
    before, after = collections.Counter(), collections.Counter()
    for update in updates:
        (before if update["time"] <= begin else after)[update["job"]] = update["tokens"]
    return sum(after[job] - before[job] for job in after) / (updates[-1]["time"] - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--backbone", required=True)
    for name, default in (("jobs", 4), ("length", 256), ("steps", 24), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    vocabulary = json.loads((pathlib.Path(options.backbone) / "config.json").read_text())["vocab_size"]
    mpirun = ["mpirun", "-n", "3", "--oversubscribe", "--bind-to", "none", *(["--allow-run-as-root"] if os.getuid() == 0 else [])]
    ratios, imbalances, waits = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        jobs = write_jobs(folder, options, vocabulary)
        run = [options.program, "run", str(jobs), "--progress", "none", "--dtype", options.dtype]
        for round in range(options.rounds):
            one, two, trace = folder / f"one{round}", folder / f"two{round}", folder / f"{round}.json"
            subprocess.run([*run, "--output", str(one), "--threads", "2"], check=True)
            subprocess.run([*mpirun, *run, "--output", str(two), "--threads", "1", "--stages", "2", "--trace", str(trace)], check=True)
            windows = pipeline_waits.stage_windows(pipeline_waits.read_events(trace), 10)
            work = [window.work * window.seconds for window in windows]
            busiest = max(windows, key=lambda window: window.work)
            ratios.append(tokens_per_second(two) / tokens_per_second(one))
            imbalances.append(max(work) / statistics.mean(work))
            waits.append(busiest.waits)
            print(
                f"one stage {tokens_per_second(one):8.1f} tokens/s, two stages {tokens_per_second(two):8.1f}, ratio {ratios[-1]:.3f}, "
                f"imbalance {imbalances[-1]:.3f}, without it {ratios[-1] * imbalances[-1]:.3f}, busiest waits {100 * waits[-1]:.1f} %",
                flush=True,
            )
    even = statistics.median(ratio * imbalance for ratio, imbalance in zip(ratios, imbalances))
    print(f"median ratio {statistics.median(ratios):.3f}, without the imbalance {even:.3f}, waits {100 * statistics.median(waits):.1f} %")


if __name__ == "__main__":
    main()
