"""Jobs wait while a server's memory is full, with the numbers as their reason, and one that can never fit is refused with them."""

import re

import pytest
from bits import job
from servers import Server


def wide(name, r=32, **train):
    method = {"peft_type": "LORA", "r": r, "target_modules": "all-linear"}
    return job(name, "lora", 1, **train) | {"method": method}


@pytest.fixture
def serve(program, backbone, tmp_path):
    servers = []

    def start(memory):
        servers.append(Server(program, backbone, tmp_path / "served", "--memory", memory))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def needs(refusal):
    """What the wide job needs alone and what of it is its own, in MiB, from the refusal's numbers."""
    found = re.search(r"needs (\d+) MiB .* and (\d+) MiB for its adapter and data among them\), 1 MiB are there", refusal)
    assert found, refusal
    return int(found.group(1)), int(found.group(2))


def reason(server, name):
    return next(line for line in server.ask("jobs").stdout.splitlines() if line.startswith(name + " "))


def test_jobs_wait_for_memory_and_start_when_others_end(serve, runs):
    small = serve("1MiB")
    refused = small.ask("submit", runs.write("first", [wide("first")]), expect=2)
    assert len(refused.stderr.splitlines()) == 1 and small.states() == {}
    alone, own = needs(refused.stderr)
    assert own > 10
    small.kill()

    there = alone + 6 * own  # two with what passes between stages, shards and store, and a tiny one
    server = serve(f"{there}MiB")
    endless = [wide(f"endless-{i}", max_steps=100000) for i in range(2)]
    server.ask("submit", runs.write("endless", endless))
    server.ask("submit", runs.write("next", [wide("next")]))
    server.wait_for("endless-0", "endless-1", state="running")
    assert server.state("next") == "queued"
    together = int(re.search(r"does not fit beside 2 other jobs: (\d+) MiB are needed", reason(server, "next")).group(1))
    assert together > there
    assert f"{there} MiB are there" in reason(server, "next")
    watching = server.start("watch", "next")
    assert "does not fit beside 2 other jobs" in watching.stdout.readline()
    server.ask("submit", "--watch", runs.write("tiny", [job("tiny", "ia3", 2)]))  # one that fits does not wait behind it
    assert server.state("next") == "queued"

    never = server.ask("submit", runs.write("never", [job("fits", "ia3", 3), wide("never", r=512)]), expect=2)
    assert len(never.stderr.splitlines()) == 1 and "never does not fit: it needs" in never.stderr and "MiB are there" in never.stderr
    assert "fits" not in server.states() and "never" not in server.states()

    server.ask("cancel", "endless-0")
    server.wait_for("next")
    told, errors = watching.communicate(timeout=60)
    assert watching.returncode == 0, errors
    assert "next: running at step 0/3" in told and told.splitlines()[-1] == "next: done at step 3/3"
    assert "does not fit" not in reason(server, "next")


def test_a_restart_with_less_memory_keeps_the_jobs_waiting(serve, runs):
    server = serve("8GiB")
    server.ask("submit", runs.write("endless", [wide("endless", max_steps=100000)]))
    server.wait(lambda states: not states["endless"][1].startswith("0/"))
    server.kill()
    small = serve("1MiB")
    assert small.state("endless") == "queued" and "endless does not fit: it needs" in reason(small, "endless")
    at = small.states()["endless"][1]
    assert small.stop() == 0, small.stderr
    again = serve("8GiB")
    again.wait(lambda states: states["endless"][0] == "running" and states["endless"][1] != at)


def test_run_is_refused_with_the_numbers(coppice, runs):
    done = coppice("run", runs.write("one", [wide("one")]), "--output", runs.folder / "out", "--memory", "1MiB")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    needs(done.stderr)


@pytest.mark.parametrize("size", ["lots", "0", "-1", "1 parsec", ""])
def test_sizes_that_are_none(coppice, runs, size):
    done = coppice("run", runs.write("one", [wide("one")]), "--output", runs.folder / "out", "--memory", size)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "--memory" in done.stderr, done.stderr
