"""What a run folder promises: one process at a time, changed jobs refused by name, readers beside a live run, errors of the disk."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest


@pytest.fixture
def start(program):
    """Starts a run in the background and waits for its first metrics line; it is killed at the end."""
    running = []

    def begin(files, *flags):
        command = [str(program), "run", str(files.path), "--output", str(files.output), "--progress", "none", *flags]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        running.append(process)
        metrics = files.output / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def one_line(done, *words):
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_a_second_process_is_refused_and_told_who(coppice, files, start):
    files.job["train"]["max_steps"] = 100000
    files.write()
    process = start(files)
    one_line(coppice("run", files.path, "--output", files.output), str(process.pid))


def test_a_dry_run_reports_what_the_run_would_be_refused_for(coppice, files, start):
    assert coppice("run", files.write(), "--output", files.output).returncode == 0
    before = sorted(path.name for path in files.output.rglob("*"))
    assert coppice("run", files.path, "--output", files.output, "--dry-run").returncode == 0
    files.job["train"]["learning_rate"] = 0.5
    files.write()
    refused = [coppice("run", files.path, "--output", files.output, *flag) for flag in ((), ("--dry-run",))]
    for done in refused:
        one_line(done, "tone: train.learning_rate has changed")
    assert refused[0].stderr == refused[1].stderr
    assert sorted(path.name for path in files.output.rglob("*")) == before
    files.output = files.folder / "live"
    files.job["train"]["max_steps"] = 100000
    files.write()
    start(files)
    one_line(coppice("run", files.path, "--output", files.output, "--dry-run"), "another process")


def test_a_job_that_has_ended_needs_no_memory(coppice, files):
    assert coppice("run", files.write(), "--output", files.output).returncode == 0
    again = coppice("run", files.path, "--output", files.output, "--memory", "1MiB")
    assert again.returncode == 0, again.stderr
    one_line(coppice("run", files.path, "--output", files.folder / "new", "--memory", "1MiB"), "does not fit", "1 MiB are there")


def test_readers_beside_a_live_run(coppice, files, start):
    files.job["train"]["max_steps"] = 100000
    files.write()
    process = start(files)
    for i in range(20):
        listed = coppice("jobs", files.output)
        assert listed.returncode == 0, listed.stderr
        assert "tone" in listed.stdout and "running" in listed.stdout
    deadline = time.monotonic() + 30
    while coppice("export", files.output, "tone", files.folder / "adapter").returncode != 0:
        assert time.monotonic() < deadline
    assert (files.folder / "adapter" / "adapter_model.safetensors").exists()
    assert process.poll() is None


@pytest.mark.parametrize("key,value", [("learning_rate", 1e-3), ("seed", 7), ("max_steps", 1)])
def test_a_changed_key_is_refused_by_name(coppice, files, key, value):
    files.write()
    assert coppice("run", files.path, "--output", files.output).returncode == 0
    files.job["train"][key] = value
    files.write()
    one_line(coppice("run", files.path, "--output", files.output), "tone", f"train.{key}")


def test_changed_data_is_refused(coppice, files):
    files.write()
    assert coppice("run", files.path, "--output", files.output).returncode == 0
    files.rows.append({"prompt": "Say more:", "completion": " more"})
    files.write()
    one_line(coppice("run", files.path, "--output", files.output), "tone", "data")


def test_a_run_goes_on_where_it_was_moved_to(coppice, files):
    def run(folder, *flags):
        done = coppice("run", folder / "jobs.yaml", "--output", folder / "out", *flags)
        assert done.returncode == 0, done.stderr

    files.job["train"]["lr_scheduler_type"] = "constant"
    files.write()
    before, whole = files.folder / "before", files.folder / "whole"
    for folder in (before, whole):
        folder.mkdir()
        for name in ("jobs.yaml", "rows.jsonl"):
            shutil.copy(files.folder / name, folder / name)
    run(before, "--set", "jobs.tone.train.max_steps=1")
    after = before.rename(files.folder / "after")
    run(after)
    run(whole)
    assert [json.loads(line)["step"] for line in (after / "out" / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    moved, unmoved = (folder / "out" / "adapters" / "tone" / "adapter_model.safetensors" for folder in (after, whole))
    assert moved.read_bytes() == unmoved.read_bytes()


def test_nohup_keeps_a_run_alive(program, files):
    """It makes a program ignore that its terminal has gone."""
    files.job["train"]["max_steps"] = 200
    command = ["nohup", str(program), "run", str(files.write()), "--output", str(files.output), "--progress", "none"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (files.output / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (files.output / "adapters" / "tone" / "adapter_model.safetensors").exists()


def test_new_jobs_are_added(coppice, files):
    files.write()
    assert coppice("run", files.path, "--output", files.output).returncode == 0
    files.jobs["jobs"].append(files.job | {"name": "pitch"})
    files.write()
    done = coppice("run", files.path, "--output", files.output)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(files.output / "adapters")) == ["pitch", "tone"]


@pytest.mark.parametrize("dtype, other", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_run_goes_on_in_the_dtype_it_began_in(coppice, files, dtype, other):
    """Whichever of them is the processor's natural one."""

    def run(output, *flags):
        return coppice("run", files.write(), "--output", files.folder / output, *flags)

    def tensors(output, job):
        return (files.folder / output / "adapters" / job / "adapter_model.safetensors").read_bytes()

    files.job["train"]["lr_scheduler_type"] = "constant"
    assert run("out", "--dtype", dtype).returncode == 0
    files.job["train"]["max_steps"] = 4
    files.jobs["jobs"].append(files.job | {"name": "pitch"})
    one_line(run("out", "--dtype", other), "tone", f"--dtype is {other}", f"was {dtype}")
    assert run("out").returncode == 0
    assert run("at-once", "--dtype", dtype).returncode == 0
    assert run("otherwise", "--dtype", other).returncode == 0
    for job in ("tone", "pitch"):
        assert tensors("out", job) == tensors("at-once", job) != tensors("otherwise", job)


def test_dry_run_writes_nothing(coppice, files):
    files.write()
    done = coppice("run", files.path, "--output", files.output, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "tone" in done.stdout and "MiB" in done.stdout
    assert not files.output.exists()


def test_dry_run_names_all_parts_of_the_memory(coppice, files):
    files.write()
    for flags in ((), ("--stages", 2, "--param-ranks", 2)):
        done = coppice("run", files.path, "--output", files.output, "--dry-run", *flags)
        parts, total = re.fullmatch(r"(.*), in all ([\d.]+) MiB;.*", done.stdout.splitlines()[-1]).groups()
        sizes = [float(size) for size in re.findall(r"([\d.]+) MiB", parts)]
        assert abs(sum(sizes) - float(total)) < 0.05 * (len(sizes) + 1), done.stdout


def test_a_full_disk_is_said_and_the_run_goes_on_later(coppice, files):
    files.job["method"] = {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"}
    files.job["train"]["max_steps"] = 6
    files.write()

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = coppice("run", files.path, "--output", files.output, "--progress", "none", preexec_fn=small_disk)
    assert done.returncode == 2, done.stderr
    assert "full" in done.stderr and str(files.output) in done.stderr
    assert coppice("run", files.path, "--output", files.output).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(coppice, files):
    files.write()
    files.output.mkdir(mode=0o500)
    one_line(coppice("run", files.path, "--output", files.output), str(files.output))


@pytest.mark.parametrize("flags", [(), ("--dry-run",), ("--dtype", "float32")])
def test_output_of_a_name_that_is_too_long(coppice, files, flags):
    output = files.folder / ("x" * 300)
    one_line(coppice("run", files.write(), "--output", output, *flags), f"--output {output}: File name too long")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search everywhere")
def test_output_in_a_folder_that_may_not_be_searched(coppice, files):
    (files.folder / "closed").mkdir(mode=0o600)
    output = files.folder / "closed" / "out"
    one_line(coppice("run", files.write(), "--output", output), f"--output {output}: Permission denied")


def test_output_that_is_a_file(coppice, files):
    files.write()
    files.output.write_text("a file")
    one_line(coppice("run", files.path, "--output", files.output), str(files.output))


def test_folders_that_are_none(coppice, files, tmp_path):
    one_line(coppice("jobs", tmp_path / "nowhere"), "nowhere")
    one_line(coppice("export", tmp_path / "nowhere", "tone", tmp_path / "out"), "nowhere")
    one_line(coppice("jobs", tmp_path / ("x" * 300)), "xxx: File name too long")
    files.write()
    assert coppice("run", files.path, "--output", files.output).returncode == 0
    one_line(coppice("export", files.output, "pitch", tmp_path / "out"), "pitch", "tone")


def test_metrics_lines(coppice, files):
    files.job["data"]["eval"] = "rows.jsonl"
    files.job["train"] |= {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 1}
    files.write()
    assert coppice("run", files.path, "--output", files.output).returncode == 0
    lines = [json.loads(line) for line in (files.output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [list(line) for line in steps] == [["job", "step", "loss", "grad_norm", "learning_rate", "tokens", "time"]] * 2
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 1, 2]
    assert [line["step"] for line in steps] == [1, 2]


def test_keys_beside_an_adapter_may_say_the_same_in_other_words(coppice, files):
    files.job["method"] = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
    assert coppice("run", files.write(), "--output", files.output).returncode == 0
    files.job["init_adapter"] = str(files.output / "adapters" / "tone")
    assert coppice("run", files.write(), "--output", files.folder / "goes-on").returncode == 0
    files.job["method"]["target_modules"] = ["q_proj"]
    refused = coppice("run", files.write(), "--output", files.folder / "refused")
    assert refused.returncode == 2 and "method.target_modules" in refused.stderr
