"""What commits cost: runs with commits as they are beside runs that commit once, at their end, in turns.

    commit_cost.py --coppice build/coppice [--jobs 1 8] [--steps 6] [--rounds 3] [--backbone DIR] [--threads 2]

LoRA r 16 on the 110 M shape of `coppice bench --write-backbone`, 4 x 512 tokens a step for one job, 1 x 512 for each of several. "Off" is a
rhythm (save_steps) that no job reaches. tokens/s from the warm-up's end (the first step of every job) to the last update, by metrics.jsonl;
processor time is that of the whole process, user and system: on a machine with other work it is the figure to trust. Both ratios are of pairs
that ran one after the other, the median of all; a loss of at most 5 % is wanted.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import tempfile

OFF = ["--set", "defaults.train.save_steps=1000000"]


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tokens_per_second(metrics):
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    warm = max(line["time"] for line in steps if line["step"] == 1)
    last, first = {}, {}
    for line in steps:
        last[line["job"]] = max(last.get(line["job"], 0), line["tokens"])
        if line["time"] <= warm:
            first[line["job"]] = max(first.get(line["job"], 0), line["tokens"])
    return (sum(last.values()) - sum(first.values())) / (max(line["time"] for line in steps) - warm)


def measure(options, jobs_file, output, flags):
    before = processor_seconds()
    command = [options.coppice, "run", jobs_file, "--output", output, "--progress", "none", "--threads", options.threads, "--dtype", options.dtype]
    subprocess.run([str(word) for word in [*command, *flags]], check=True)
    return tokens_per_second(output / "metrics.jsonl"), processor_seconds() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coppice", type=pathlib.Path, required=True)
    parser.add_argument("--backbone", help="of coppice bench --write-backbone (default: made for this run)")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        if not options.backbone:
            options.backbone = work / "backbone"
            subprocess.run([options.coppice, "bench", "--write-backbone", options.backbone], check=True)
        print("| jobs | tokens/s with commits | without | median ratio | processor s with | without | median ratio |")
        print("|---|---|---|---|---|---|---|")
        for jobs in options.jobs:
            folder = work / f"{jobs}-jobs"
            batch = 4 if jobs == 1 else 1
            # Writes the job file and its data; the run itself is of one step.
            make = [options.coppice, "bench", "--backbone", options.backbone, "--jobs", jobs, "--batch", batch, "--steps", 1, "--keep", folder]
            subprocess.run([str(word) for word in make], check=True, capture_output=True)
            pairs = []
            for turn in range(options.rounds):
                steps = ["--set", f"defaults.train.max_steps={1 + options.steps}"]
                order = [("on", steps), ("off", steps + OFF)]
                pair = {kind: measure(options, folder / "jobs.yaml", work / f"{jobs}-{turn}-{kind}", flags) for kind, flags in order[:: 1 - 2 * (turn % 2)]}
                pairs.append(pair)
            column = lambda kind, at: ", ".join(f"{pair[kind][at]:.0f}" for pair in pairs)
            ratio = lambda at: statistics.median(pair["on"][at] / pair["off"][at] for pair in pairs)
            print(
                f"| {jobs} | {column('on', 0)} | {column('off', 0)} | {ratio(0):.3f} | {column('on', 1)} | {column('off', 1)} | {ratio(1):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
