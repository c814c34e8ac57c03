"""`coppice serve` and the commands that speak to it: jobs come, go on and end with the bits they have alone, whatever happens to the server."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest
from bits import LONG, METHODS, Runs, job, others
from servers import Server

STEPS = 40
LASTING = [job(f"long-{kind}", kind, seed, max_steps=STEPS) for seed, kind in enumerate(METHODS)]
ENDLESS = job("endless", "lora", 9, max_steps=100000)


@pytest.fixture(scope="session")
def lasting_alone(program, backbone, tmp_path_factory):
    """Each of LASTING by `coppice run`, with nothing beside it."""
    runs = Runs(program, backbone, tmp_path_factory.mktemp("lasting"))
    tensors = {}
    for entry in LASTING:
        runs.run(entry["name"], [entry], "--threads", 1)
        tensors |= runs.tensors(entry["name"], [entry])
    assert None not in tensors.values() and len(set(tensors.values())) == len(LASTING)
    return tensors


@pytest.fixture
def serve(program, backbone, tmp_path):
    servers = []

    def start(*flags, **options):
        servers.append(Server(program, backbone, tmp_path / "served", *flags, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.mark.parametrize("dtype, other", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_server_goes_on_in_the_dtype_its_jobs_began_in(program, serve, runs, dtype, other):
    server = serve("--dtype", dtype)
    server.ask("submit", runs.write("a", [ENDLESS]))
    server.wait(lambda states: int(states["endless"][1].split("/")[0]) > 2)
    assert server.stop() == 0, server.stderr
    command = [program, "serve", "--backbone", runs.backbone, "--output", server.output, "--listen", "127.0.0.1:0", "--dtype", other]
    refused = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and all(word in refused.stderr for word in ("endless", f"--dtype is {other}", f"was {dtype}"))
    server = serve("--dtype", "auto")
    server.wait_for("endless", state="running")
    server.ask("cancel", "endless")
    assert server.stop() == 0, server.stderr


def metric_steps(server, name):
    lines = [json.loads(line) for line in (server.output / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["job"] == name and "loss" in line]


def test_submit_list_and_watch(serve, runs):
    server = serve()
    path = runs.write("few", [job("one", "lora", 1), job("two", "ia3", 2)])
    sweep = {"of": "two", "over": {"train.learning_rate": [1e-2, 1e-3]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sweep": sweep}))
    accepted = server.ask("submit", os.path.relpath(path))
    names = [line.split()[0] for line in accepted.stdout.splitlines()[1:]]
    assert names[0] == "one" and len(names) == 3 and all(name.startswith("two") for name in names[1:])
    watched = server.ask("watch", names[2])
    assert watched.stdout.splitlines()[-1] == f"{names[2]}: done at step 3/3"
    states = server.wait_for(*names)
    assert list(states) == names and set(states.values()) == {("done", "3/3")}
    assert sorted(os.listdir(server.output / "adapters")) == sorted(names)
    assert server.stop() == 0, server.stderr


def test_watch_tells_every_step_to_each_that_watches(serve, runs):
    server = serve()
    server.ask("submit", runs.write("a", [LASTING[0]]))
    server.ask("pause", "long-lora")
    each, every = server.start("watch", "long-lora"), server.start("watch")
    assert "paused" in each.stdout.readline() and "paused" in every.stdout.readline()
    server.ask("submit", runs.write("b", [LASTING[1]]))
    server.ask("resume", "long-lora")
    one, errors = each.communicate(timeout=120)
    assert each.returncode == 0, errors
    steps = [line.split()[2] for line in one.splitlines() if ": step " in line]
    assert steps == [f"{i}/{STEPS}" for i in range(STEPS - len(steps) + 1, STEPS + 1)] and len(steps) > STEPS // 2
    server.wait_for("long-lora", "long-ia3")
    assert server.stop() == 0
    rest, errors = every.communicate(timeout=60)
    assert every.returncode == 2 and len(errors.splitlines()) == 1 and server.address in errors
    assert [line.split()[2] for line in rest.splitlines() if line.startswith("long-lora: step ")] == steps
    assert sum(line.startswith("long-ia3: step ") for line in rest.splitlines()) == STEPS
    assert f"long-ia3: done at step {STEPS}/{STEPS}" in rest.splitlines()


def test_submit_and_watch_ends_with_the_outcome_of_the_jobs(serve, runs):
    server = serve(progress="lines")
    done = server.ask("submit", "--watch", runs.write("good", [job("good", "lora", 1)]))
    assert done.stdout.splitlines()[-1] == "good: done at step 3/3"
    wild = [job("wild", "lora", 3, learning_rate=1e30, max_steps=10), job("tame", "lora", 4)]
    failed = server.ask("submit", "--watch", runs.write("wild", wild), expect=1)
    assert "diverged" in failed.stdout and "tame: done at step 3/3" in failed.stdout
    retry = f"`coppice run JOBS.yaml --output {server.output} --retry-failed`"
    assert retry in failed.stdout and retry in server.ask("jobs").stdout
    again = server.ask("submit", runs.write("again", [job("wild", "lora", 3)]), expect=2)
    assert len(again.stderr.splitlines()) == 1 and "already" in again.stderr and retry in again.stderr
    assert server.states() == {"good": ("done", "3/3"), "wild": ("failed", server.states()["wild"][1]), "tame": ("done", "3/3")}
    server.ask("watch", "wild", expect=1)
    assert server.stop() == 0
    log = [line.rstrip() for line in server.lines if line.startswith(("wild: ", "good: "))]
    assert log[:2] == ["good: queued at step 0/3", "good: running at step 0/3"], log
    assert "diverged" in log[-2] and retry in log[-1], log


def test_pause_resume_and_cancel_with_their_states_and_errors(serve, runs, lasting_alone):
    server = serve()
    server.ask("submit", runs.write("a", [LASTING[0], ENDLESS]))

    def refused(*command, words):
        errors = server.ask(*command, expect=2).stderr
        assert len(errors.splitlines()) == 1 and all(word in errors for word in words), errors

    server.wait_for("endless", state="running")
    refused("resume", "endless", words=["endless", "running", "paused"])
    server.ask("pause", "endless")
    assert server.state("endless") == "paused"
    refused("pause", "endless", words=["endless", "paused", "running"])
    time.sleep(0.2)
    at = server.states()["endless"]
    server.wait_for("long-lora")  # what is paused holds up nobody
    assert server.states()["endless"] == at
    server.ask("resume", "endless")
    server.wait(lambda states: states["endless"][1] != at[1])
    assert server.state("endless") == "running"
    server.ask("cancel", "endless")
    assert server.state("endless") == "cancelled"
    for command in ("cancel", "pause", "resume"):
        refused(command, "endless", words=["endless", "cancelled"])
        refused(command, "long-lora", words=["long-lora", "done"])
        refused(command, "long-loar", words=["long-loar", "long-lora"])
    assert server.tensors(LASTING[:1]) == {"long-lora": lasting_alone["long-lora"]}
    assert not (server.output / "adapters" / "endless").exists()


def disturb(server, runs, numbers, jobs, kill):
    """Submits jobs one by one at random moments, pauses and resumes them, and where kill says so kills the server right after an answer."""
    submitted, paused = [], set()
    for i, entry in enumerate(jobs):
        time.sleep(numbers.uniform(0, 0.3))
        server.ask("submit", runs.write(f"s{i}", [entry]))
        submitted.append(entry["name"])
        if kill and numbers.random() < 0.6:
            server.kill()
            server = kill()
            assert set(server.states()) >= set(submitted)
        for name in numbers.sample(submitted, min(3, len(submitted))):
            command = "resume" if name in paused else "pause"
            # It may have ended meanwhile.
            if server.ask(command, name, expect=None).returncode == 0:
                (paused.discard if name in paused else paused.add)(name)
        assert all(server.state(name) == "paused" for name in paused)
    time.sleep(numbers.uniform(0, 0.3))
    for name in paused:
        server.ask("resume", name)
    return server


@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_same_bits_when_submitted_paused_and_resumed_at_random(serve, runs, lasting_alone, seed):
    print("seed", seed)
    numbers = random.Random(seed)
    jobs = LASTING + [entry | {"train": entry["train"] | {"max_steps": 30}} for entry in others(5)]
    numbers.shuffle(jobs)
    server = disturb(serve("--stages", numbers.choice((1, 2))), runs, numbers, jobs, None)
    server.wait_for(*(entry["name"] for entry in jobs))
    assert server.tensors(LASTING) == lasting_alone
    for entry in jobs:
        assert metric_steps(server, entry["name"]) == list(range(1, entry["train"]["max_steps"] + 1))
    assert server.stop() == 0, server.stderr


@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_what_was_acknowledged_survives_kill_9_and_ends_with_the_same_bits(serve, runs, lasting_alone, seed):
    print("seed", seed)
    numbers = random.Random(seed)
    jobs = LASTING + others(5)
    numbers.shuffle(jobs)
    stages = itertools.cycle((1, 2, 4))
    server = disturb(serve(), runs, numbers, jobs, lambda: serve("--stages", next(stages)))
    server.wait_for(*(entry["name"] for entry in jobs))
    assert server.tensors(LASTING) == lasting_alone
    for entry in jobs:
        assert metric_steps(server, entry["name"]) == list(range(1, entry["train"]["max_steps"] + 1))


def test_the_same_under_mpirun(serve, runs, lasting_alone):
    numbers = random.Random(3)
    jobs = LASTING + others(3)
    server = serve("--stages", 2, ranks=3)
    server = disturb(server, runs, numbers, jobs, lambda: serve("--stages", 2, ranks=3))
    server.kill()
    server = serve("--stages", 2, ranks=3)
    server.wait_for(*(entry["name"] for entry in jobs))
    assert server.tensors(LASTING) == lasting_alone
    assert server.stop(signal.SIGUSR1) == 0, server.stderr  # mpirun keeps SIGTERM's ranks no longer than itself


def test_a_restart_keeps_every_state(serve, runs, lasting_alone):
    server = serve()
    server.ask("submit", runs.write("a", [LASTING[0], ENDLESS, job("gone", "ia3", 1, max_steps=100000), job("short", "lora", 2)]))
    server.ask("cancel", "gone")
    server.ask("pause", "endless")
    server.ask("pause", "long-lora")
    server.wait_for("short")
    server.kill()
    for _ in range(2):
        server = serve()
        states = server.states()
        assert {name: state for name, (state, _) in states.items()} == {
            "long-lora": "paused", "endless": "paused", "gone": "cancelled", "short": "done"}  # fmt: skip
        assert list(states) == ["long-lora", "endless", "gone", "short"]
        assert server.stop() == 0, server.stderr
    server = serve()
    server.ask("resume", "long-lora")
    server.ask("cancel", "endless")
    server.wait_for("long-lora")
    assert server.tensors(LASTING[:1]) == {"long-lora": lasting_alone["long-lora"]}
    server.kill()
    assert serve().state("endless") == "cancelled"


def test_a_submission_of_much_data_holds_up_no_other_client(serve, runs):
    server = serve()
    path = runs.write("large", [job("large", "lora", 1)])
    (runs.folder / "large.jsonl").write_text("".join(json.dumps({"input_ids": [i % 200] * 30}) + "\n" for i in range(300_000)))
    slow = server.start("submit", path)
    time.sleep(0.3)
    server.ask("submit", runs.write("small", [job("small", "ia3", 2)]))
    assert slow.poll() is None, "the large one was too small to tell"
    assert slow.wait(timeout=300) == 0, slow.stderr.read()
    slow.communicate()
    server.wait_for("small", "large")


@pytest.mark.parametrize("number", [signal.SIGTERM] + [signal.SIGINT, signal.SIGUSR1] * LONG)
def test_a_signal_stops_in_order_and_a_restart_goes_on(serve, runs, lasting_alone, number):
    server = serve()
    server.ask("submit", runs.write("a", LASTING))
    server.wait(lambda states: states["long-lora"][1] != f"0/{STEPS}")
    assert server.stop(number) == 0, server.stderr
    server = serve("--stages", 2)
    server.wait_for(*lasting_alone)
    assert server.tensors(LASTING) == lasting_alone


def test_a_server_without_jobs_says_nothing_of_steps_when_it_stops(serve):
    server = serve()
    assert server.stop() == 0, server.stderr
    assert "coppice: stopping; a second signal ends at once\n" in server.lines, server.stderr
    assert "step" not in server.stderr, server.stderr


def test_a_server_says_what_memory_it_took_also_without_jobs(serve, runs):
    def told(server):
        assert server.stop() == 0, server.stderr
        return server.lines[-1]

    took = r"coppice: stopped; this process took at most (\d+) MiB"
    idle = re.fullmatch(took + "\n", told(serve()))
    assert 5 < int(idle.group(1)) < 1000
    server = serve()
    server.ask("submit", "--watch", runs.write("a", [job("good", "lora", 2)]))
    busy = re.fullmatch(took + r"; memory on this host: by the memory model at most (\d+) MiB\n", told(server))
    assert all(int(size) > 5 for size in busy.groups())


def test_a_job_whose_data_has_changed_or_gone_fails_alone_at_a_restart(serve, runs, lasting_alone):
    server = serve()
    jobs = [LASTING[0], ENDLESS, ENDLESS | {"name": "gone", "data": {"train": "gone.jsonl"}}]
    server.ask("submit", runs.write("a", jobs))
    server.kill()
    with open(runs.folder / "endless.jsonl", "a") as data:
        data.write('{"input_ids": [1, 2, 3]}\n')
    gone = (runs.folder / "gone.jsonl").read_bytes()
    (runs.folder / "gone.jsonl").unlink()
    server = serve()
    listed = {line.split()[0]: line for line in server.ask("jobs").stdout.splitlines()}
    assert "failed" in listed["endless"] and "data" in listed["endless"]
    assert "the next start of the server tries again" in listed["gone"]
    assert "failed" in listed["gone"] and str(runs.folder / "gone.jsonl") in listed["gone"]
    server.wait_for("long-lora")
    assert server.tensors(LASTING[:1]) == {"long-lora": lasting_alone["long-lora"]}
    assert server.stop() == 0, server.stderr
    # Nothing of it is stored: when the data are back, the job goes on.
    (runs.folder / "gone.jsonl").write_bytes(gone)
    server = serve()
    server.wait_for("gone", state="running")
