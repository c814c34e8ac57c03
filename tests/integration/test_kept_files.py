"""What is the user's is not lost: commands refuse to write over it, and what cannot be written is said."""

import subprocess

import pytest
from test_run_folder import one_line


@pytest.fixture
def ran(coppice, files):
    files.write()
    done = coppice("run", files.path, "--output", files.output, "--progress", "none")
    assert done.returncode == 0, done.stderr
    return files


def test_an_empty_output_is_refused(coppice, files):
    files.write()
    one_line(coppice("run", files.path, "--output", "", cwd=files.folder), "--output is empty")
    assert sorted(path.name for path in files.folder.iterdir()) == ["jobs.yaml", "rows.jsonl"]


def test_a_trace_is_written_over_a_trace_alone(coppice, files):
    before = files.write().read_text()
    one_line(coppice("run", files.path, "--output", files.output, "--trace", files.path), f"--trace {files.path}")
    assert files.path.read_text() == before
    trace = files.folder / "trace.json"
    for _ in range(2):
        done = coppice("run", files.path, "--output", files.output, "--progress", "none", "--trace", trace)
        assert done.returncode == 0, done.stderr


def test_a_backbone_is_written_where_there_is_none(coppice, files):
    files.write()
    shape = ["--shape", "hidden=8,intermediate=8,layers=1,heads=1,vocabulary=8"]
    one_line(coppice("bench", "--write-backbone", files.folder, *shape), f"--write-backbone {files.folder}", "is there already")
    assert sorted(path.name for path in files.folder.iterdir()) == ["jobs.yaml", "rows.jsonl"]
    assert coppice("bench", "--write-backbone", files.folder / "new", *shape).returncode == 0


def test_an_export_keeps_the_readme_beside_it(coppice, ran):
    out = ran.folder / "export"
    for _ in range(2):
        done = coppice("export", ran.output, "tone", out)
        assert done.returncode == 0, done.stderr
        (out / "README.md").write_text("mine")
    assert (out / "README.md").read_text() == "mine"
    done = coppice("export", ran.output, "tone", out)
    assert done.returncode == 0 and (out / "README.md").read_text() == "mine"


def test_an_export_over_the_adapters_of_a_run_is_refused(coppice, ran):
    adapter = ran.output / "adapters" / "tone"
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    one_line(coppice("export", ran.output, "tone", adapter), str(adapter), "a folder elsewhere is accepted")
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before


@pytest.mark.parametrize("arguments", [["jobs"], ["inspect"]])
def test_output_that_cannot_be_written_is_said(program, ran, arguments):
    path = {"jobs": ran.output, "inspect": ran.output / "adapters" / "tone"}[arguments[0]]
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(program), *arguments, str(path)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    one_line(done, "standard output", "No space left on device")
