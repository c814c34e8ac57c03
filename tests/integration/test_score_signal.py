"""`coppice score` that is stopped by a signal leaves nothing behind."""

import json
import signal
import subprocess
import time

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_file(program, backbone, tmp_path, number):
    data, output = tmp_path / "rows.jsonl", tmp_path / "scores" / "out.jsonl"
    output.parent.mkdir()
    data.write_text("".join(json.dumps({"input_ids": [1 + i % 200] * 200}) + "\n" for i in range(20_000)))
    command = [str(program), "score", "--backbone", str(backbone), "--data", str(data), "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not any(path.stat().st_size > 0 for path in output.parent.iterdir()):
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -number
    assert list(output.parent.iterdir()) == []
