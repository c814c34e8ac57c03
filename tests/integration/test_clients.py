"""Commands that speak to a server, where there is none, another version, or something else: exit status 2, one line that names it."""

import os
import socket
import struct
import threading

import pytest

TOKEN = "0123456789abcdef" * 4
COMMANDS = [("jobs",), ("watch",), ("watch", "tone"), ("cancel", "tone"), ("pause", "tone"), ("resume", "tone")]


@pytest.fixture
def ask(coppice):
    """Runs a command against an address; a token is in the environment unless another is given."""

    def run(address, *arguments, token=TOKEN):
        environment = {name: value for name, value in os.environ.items() if name != "COPPICE_TOKEN"}
        if token is not None:
            environment["COPPICE_TOKEN"] = token
        return coppice(*arguments, "--server", address, env=environment)

    return run


class Listener:
    """Takes one connection, reads its first bytes, sends its own and closes."""

    def __init__(self, answer):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(30)
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        self.received = b""
        self.thread = threading.Thread(target=self.serve, args=(answer,))
        self.thread.start()

    def serve(self, answer):
        connection, _ = self.socket.accept()
        with connection:
            self.received = connection.recv(65536)
            connection.sendall(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.join()
        self.socket.close()


def frame(message, version=1):
    return b"CpcF" + struct.pack("<II", version, len(message)) + message


def one_line(done, *words):
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]
    assert TOKEN not in lines[0]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_server_that_is_gone(ask, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
    one_line(ask(address, *command), address)


def test_submit_to_a_server_that_is_gone(ask, files):
    one_line(ask("127.0.0.1:1", "submit", files.write()), "127.0.0.1:1")


def test_a_job_file_is_checked_before_anything_is_sent(ask, files):
    files.job["train"]["learning_rate"] = "fast"
    one_line(ask("127.0.0.1:1", "submit", files.write()), "tone", "learning_rate", "fast")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_token_is_missing(ask, command):
    one_line(ask("127.0.0.1:1", *command, token=None), "--token-file", "COPPICE_TOKEN")


def test_token_files_that_hold_none(ask, tmp_path):
    one_line(ask("127.0.0.1:1", "jobs", "--token-file", tmp_path / "none"), str(tmp_path / "none"))
    (tmp_path / "token").write_text("a secret that is no token")
    done = ask("127.0.0.1:1", "jobs", "--token-file", tmp_path / "token")
    one_line(done, str(tmp_path / "token"))
    assert "a secret" not in done.stderr


@pytest.mark.parametrize("address", ["nonsense", "localhost", "127.0.0.1:0", "127.0.0.1:70000", "no-such-host.invalid:7420"])
def test_addresses_that_are_none(ask, address):
    one_line(ask(address, "jobs"), address)


@pytest.mark.parametrize(
    "answer,words",
    [
        (b"", ["closed"]),
        (frame(b"welcome", version=2), ["version 2"]),
        (frame(b"a frame of protocol version 1 came; version 2 is spoken here", version=0), ["version 2"]),
        (frame(b"welcome")[:-2], ["closed"]),
        (b"CpcF" + struct.pack("<II", 1, 1 << 31), [str(1 << 31)]),
        (frame(b"\xff\xff"), ["answer"]),
        (frame(b""), ["answer"]),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ["no frame"]),
    ],
    ids=["nothing", "other version", "refusal", "cut", "too large", "no message", "empty", "http"],
)
def test_answers_that_are_none(ask, answer, words):
    with Listener(answer) as listener:
        one_line(ask(listener.address, "jobs"), listener.address, *words)
    assert listener.received[:8] == b"CpcF" + struct.pack("<I", 1)


def test_a_folder_and_a_server_at_once_are_refused(ask, tmp_path):
    one_line(ask("127.0.0.1:1", "jobs", tmp_path), "--server")
