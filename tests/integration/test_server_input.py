"""What a server is asked that it cannot do: one line that says why, exit status 2, and the server and its jobs go on."""

import json
import os
import socket
import struct
import subprocess
import time

import pytest
from bits import Runs, job
from servers import Server

ENDLESS = job("endless", "lora", 9, max_steps=1000000)


@pytest.fixture(scope="module")
def server(program, backbone, tmp_path_factory):
    """One for all these tests, with a job that must be running after each."""
    folder = tmp_path_factory.mktemp("input")
    server = Server(program, backbone, folder / "served")
    server.ask("submit", Runs(program, backbone, folder).write("endless", [ENDLESS]))
    server.wait_for("endless", state="running")
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def unharmed(server):
    yield
    assert server.process.poll() is None, server.stderr
    before = server.states()["endless"]
    assert before[0] == "running" and set(server.states()) == {"endless"}
    server.wait(lambda states: states["endless"][1] != before[1])


def one_line(done, *words):
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert str(word) in done.stderr, done.stderr


def refused(server, path, *words):
    one_line(server.ask("submit", path, expect=None), *words)


def serve(program, backbone, output, *flags):
    command = [program, "serve", "--backbone", backbone, "--output", output, *flags]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)


def test_a_port_in_use(server, program, backbone, tmp_path):
    one_line(serve(program, backbone, tmp_path / "other", "--listen", server.address), server.address, "in use")
    assert not (tmp_path / "other").exists()


def test_a_folder_in_use(server, program, backbone):
    one_line(serve(program, backbone, server.output, "--listen", "127.0.0.1:0"), server.process.pid)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_another_address_needs_insecure(program, backbone, tmp_path, address):
    one_line(serve(program, backbone, tmp_path / "out", "--listen", address), "--insecure", address)
    open_to_all = Server(program, backbone, tmp_path / "out", "--insecure", listen="0.0.0.0:0")
    assert open_to_all.address.startswith("0.0.0.0:")
    open_to_all.kill()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:70000", "no-such-host.invalid:7420"])
def test_addresses_that_are_none(program, backbone, tmp_path, address):
    one_line(serve(program, backbone, tmp_path / "out", "--listen", address), address)
    assert not (tmp_path / "out" / "token").exists()


def test_a_backbone_that_is_none(program, tmp_path):
    one_line(serve(program, tmp_path / "none", tmp_path / "out", "--listen", "127.0.0.1:0"), tmp_path / "none")


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_token_that_others_may_read(program, backbone, tmp_path, mode):
    output = tmp_path / "out"
    output.mkdir()
    (output / "token").write_text("0123456789abcdef" * 4 + "\n")
    (output / "token").chmod(mode)
    one_line(serve(program, backbone, output, "--listen", "127.0.0.1:0"), output / "token")


def test_the_token_is_only_its_owners(server):
    assert (server.output / "token").stat().st_mode & 0o777 == 0o600
    assert (server.output / "token").read_text().strip() not in server.stderr


@pytest.mark.parametrize("command", [("jobs",), ("watch",), ("cancel", "endless"), ("pause", "endless")], ids=" ".join)
def test_a_wrong_token(server, command):
    wrong = os.environ | {"COPPICE_TOKEN": "0123456789abcdef" * 4}
    one_line(subprocess.run(server.command(*command), capture_output=True, text=True, timeout=60, env=wrong), server.address, "token")


def test_the_token_file_stands_for_the_variable(server):
    bare = {name: value for name, value in os.environ.items() if name != "COPPICE_TOKEN"}
    command = server.command("jobs", "--token-file", server.output / "token")
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, env=bare).returncode == 0


# The bytes of requests, as proto/rpc.proto has them.
def field(number, payload):
    return bytes([number << 3 | 2]) + (bytes([len(payload)]) if len(payload) < 128 else bytes([len(payload) & 127 | 128, len(payload) >> 7])) + payload


def hello(server, token=None, version=1):
    own = (server.output / "token").read_bytes().strip()
    return b"\x08\x01" + field(2, own if token is None else token) + field(3, b"\x08" + bytes([version]))


def frame(message, version=1, length=None):
    return b"CpcF" + struct.pack("<II", version, len(message) if length is None else length) + message


def say(server, *pieces, close=False):
    """What the server answers to bytes until it closes; with close, this end closes first."""
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if close:
            return b""
        answer = b""
        try:
            while received := connection.recv(65536):
                answer += received
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize(
    "message, words",
    [
        (lambda server: frame(b"hello", version=2), [b"version 2", b"version 1"]),
        (lambda server: frame(b"", length=1 << 31), [str(1 << 31).encode()]),
        (lambda server: frame(b"", length=1 << 17), [str(1 << 17).encode()]),  # of a stranger
        (lambda server: b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", [b"no frame"]),
        (lambda server: frame(b"\xff\xff\xff"), [b"no request"]),
        (lambda server: frame(hello(server, token=b"")), [b"missing"]),
        (lambda server: frame(hello(server, token=b"0" * 64)), [b"wrong"]),
        (lambda server: frame(hello(server, version=7)), [b"version 7"]),
        (lambda server: frame(b"\x08\x01" + hello(server)[2:68] + field(5, b"")), [b"hello"]),
        (lambda server: frame(hello(server)) + frame(b"", length=(64 << 20) + 1), [str((64 << 20) + 1).encode()]),
    ],
    ids=["version", "too large", "too large for a stranger", "http", "no request", "no token", "wrong token", "messages' version", "no hello", "large later"],
)
def test_bytes_that_are_refused_with_a_reason(server, message, words):
    answer = say(server, message(server))
    for word in words:
        assert word in answer, answer
    assert (server.output / "token").read_bytes().strip() not in answer


@pytest.mark.parametrize("cut", [1, 4, 11, 12, 20, -1])
def test_a_frame_cut(server, cut):
    say(server, frame(hello(server))[:cut], close=True)
    say(server, frame(hello(server)), frame(b"\x08\x02" + hello(server)[2:68] + field(5, b""))[:cut], close=True)


def test_many_strangers_who_say_nothing(server):
    host, port = server.address.rsplit(":", 1)
    idle = [socket.create_connection((host, int(port))) for _ in range(100)]
    assert server.ask("jobs").returncode == 0
    for connection in idle:
        connection.close()


def test_a_client_that_vanishes_in_the_middle_of_a_watch(server):
    watching = [server.start("watch", "endless") for _ in range(5)]
    for process in watching:
        assert "endless" in process.stdout.readline()
        process.kill()
        process.communicate()


def test_a_client_that_watches_and_never_reads(server):
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as deaf:
        deaf.sendall(frame(hello(server)) + frame(b"\x08\x02" + hello(server)[2:68] + field(6, b"")))
        time.sleep(1)
        assert server.ask("jobs").returncode == 0


@pytest.mark.parametrize("command", ["watch", "cancel", "pause", "resume"])
@pytest.mark.parametrize("name", ["endles", "a job\nof two lines", "../../etc", ""])
def test_an_unknown_job(server, command, name):
    one_line(server.ask(command, name, expect=None), server.address, "endles")


def test_a_job_file_with_a_path_that_the_server_cannot_read(server, runs):
    gone = job("gone", "lora", 1)
    path = runs.write("gone", [gone])
    (runs.folder / "gone.jsonl").unlink()
    refused(server, path, "gone", runs.folder / "gone.jsonl")


def test_a_job_of_another_backbone(server, runs, tmp_path):
    path = runs.write("a", [job("a", "lora", 1)])
    path.write_text(path.read_text().replace(str(runs.backbone), str(tmp_path)))
    refused(server, path, tmp_path, runs.backbone)


def test_a_name_taken(server, runs):
    refused(server, runs.write("b", [job("new", "lora", 1), ENDLESS]), "endless", "already")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"method": {"peft_type": "LORA", "r": 0, "target_modules": "all-linear"}}, ["bad", "r"]),
        ({"method": {"peft_type": "LOHA"}}, ["bad", "LOHA"]),
        ({"method": {"peft_type": "LORA", "target_modules": ["no_such_module"]}}, ["bad", "no_such_module"]),
        ({"init_adapter": "/no/such/adapter"}, ["bad", "/no/such/adapter"]),
        ({"data": {"train": "other.jsonl", "max_length": 100000}}, ["bad", "max_length", "100000"]),
    ],
    ids=["rank", "method", "module", "adapter", "length"],
)
def test_one_bad_job_of_several_refuses_all(server, runs, change, words):
    runs.write("good", [job("other", "lora", 1)])
    bad = job("bad", "lora", 2) | change
    if "init_adapter" in change:
        bad.pop("method")
    path = runs.folder / "several.yaml"
    runs.write("bad-data", [job("bad", "lora", 2)])
    written = {"backbone": str(runs.backbone), "jobs": [job("other", "lora", 1), bad, job("third", "lora", 3)]}
    runs.write("third", [job("third", "lora", 3)])
    path.write_text(json.dumps(written))
    refused(server, path, *words)


def test_a_server_that_goes_in_the_middle_of_a_watch(program, backbone, runs, tmp_path):
    gone = Server(program, backbone, tmp_path / "gone")
    gone.ask("submit", runs.write("a", [ENDLESS]))
    watching = gone.start("watch", "endless")
    assert "endless" in watching.stdout.readline()
    gone.kill()
    _, errors = watching.communicate(timeout=60)
    assert watching.returncode == 2 and len(errors.splitlines()) == 1 and gone.address in errors
    for command in (("jobs",), ("watch",), ("pause", "endless")):
        one_line(gone.ask(*command, expect=None), gone.address)
