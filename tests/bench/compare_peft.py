"""Coppice beside Hugging Face peft + torch, on the same backbone and the same tokens, in one run.

    compare_peft.py --coppice build/coppice [--dtype float32 bfloat16] [--cases one mixed eight eight-mixed] [--rounds 3]

Each case is measured in turns (ours, theirs, ours, theirs ...), so that a machine with other work on it slows both; the best turn of each
counts, and of a turn all its steps, since steps of mixed lengths differ in their padding. Eight jobs run at once here and one after the other there. Tokens are those of the sequences, without padding; both
sides count the optimizer. With --threads 1 times are those of the processor, which other work on the machine spoils little. Peak memory is that of the process; of theirs also without what Python and its libraries
take before there is a model.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

CASES = {  # jobs, sequences of a step, lengths
    "one": (1, 4, "512"),
    "mixed": (1, 8, "32-512"),
    "eight": (8, 1, "512"),
    "eight-mixed": (8, 1, "32-512"),
}
STEPS = 2


def ours(options, case, dtype, folder):
    jobs, batch, lengths = CASES[case]
    command = [options.coppice, "bench", "--backbone", options.backbone, "--jobs", jobs, "--batch", batch, "--lengths", lengths]
    command += ["--steps", STEPS, "--dtype", dtype, "--threads", options.threads, "--keep", folder]
    text = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    find = lambda pattern: float(re.search(pattern, text).group(1))
    if options.threads == 1:
        speed, share = find(r"tokens/s of the processor: ([\d.]+)"), find(r"of the processor: [\d.]+, share of the ceiling ([\d.]+)")
    else:
        speed, share = find(r"tokens/s: best [\d.]+, mean ([\d.]+)"), find(r"ceiling: best [\d.]+, mean ([\d.]+)")
    return {"tokens/s": speed, "MiB": find(r"peak memory: (\d+) MiB"), "model": find(r"memory model said (\d+) MiB"), "share": share}


def theirs(options, case, dtype, folder):
    command = [sys.executable, __file__, "--theirs", case, "--backbone", options.backbone, "--data", folder, "--dtype", dtype]
    command += ["--threads", str(options.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def status(key):
    return int(re.search(rf"{key}:\s+(\d+)", pathlib.Path("/proc/self/status").read_text()).group(1)) / 1024


def measure_peft(options, case, dtype):
    """In a process of its own: a step of each job after one that warms up, the rate of all steps."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    empty = status("VmHWM")
    jobs, batch, _ = CASES[case]
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    model = AutoModelForCausalLM.from_pretrained(options.backbone, dtype=kind)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=16, target_modules=linear))
    model.train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)

    def step(rows):
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = labels[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_((p for p in model.parameters() if p.requires_grad), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    data = [[json.loads(line)["input_ids"] for line in open(f"{options.data}/job-{job}.jsonl")] for job in range(jobs)]
    part = lambda job, number: data[job][number * batch : (number + 1) * batch]
    step(part(0, 0))
    now, tokens = time.process_time if options.threads == 1 else time.perf_counter, 0
    begin = now()
    for number in range(1, STEPS + 1):
        for job in range(jobs):
            step(part(job, number))
            tokens += sum(map(len, part(job, number)))
    print(json.dumps({"tokens/s": tokens / (now() - begin), "MiB": status("VmHWM"), "libraries": empty}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coppice", type=pathlib.Path)
    parser.add_argument("--backbone", help="of coppice bench --write-backbone (default: made for this run)")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--theirs", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        measure_peft(options, options.theirs, options.dtype[0])
        return
    with tempfile.TemporaryDirectory() as work:
        if not options.backbone:
            options.backbone = f"{work}/backbone"
            subprocess.run([options.coppice, "bench", "--write-backbone", options.backbone], check=True)
        print("| case | dtype | ours, tokens/s | peft, tokens/s | ratio | ours, MiB | by the memory model | peft, MiB | ratio | peft without its libraries | ratio | share of the ceiling |")
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        for case in options.cases:
            for dtype in options.dtype:
                best = [{}, {}]
                for turn in range(options.rounds):
                    folder = f"{work}/{case}-{dtype}-{turn}"
                    for side, measure in enumerate((ours, theirs)):
                        found = measure(options, case, dtype, folder)
                        for key, value in found.items():
                            pick = min if key == "MiB" else max
                            best[side][key] = pick(best[side].get(key, value), value)
                us, them = best
                model_alone = them["MiB"] - them["libraries"]
                print(
                    f"| {case} | {dtype} | {us['tokens/s']:.0f} | {them['tokens/s']:.0f} | {us['tokens/s'] / them['tokens/s']:.2f} "
                    f"| {us['MiB']:.0f} | {us['model']:.0f} | {them['MiB']:.0f} | {us['MiB'] / them['MiB']:.2f} "
                    f"| {model_alone:.0f} | {us['MiB'] / model_alone:.2f} | {us['share']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
