"""The rules of the house that a reader should not have to check: includes point down, third-party headers have one owner, files
stay short, nothing is left open."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOWER = ["proto", "common", "kernels", "worker", "coordinator"]
# Third-party headers and the folders that may include them.
OWNERS = {
    "rocksdb/": ["common/store/"],
    "mpi.h": ["common/transport/"],
    "hwy/": ["kernels/cpu/"],
    "yaml-cpp/": ["common/io/"],
    "nlohmann/": ["common/io/"],
    "unicode/": ["common/text/", "worker/peft/"],
    "CLI/": ["coordinator/cli/"],
    "boost/asio": ["common/net/", "coordinator/api/"],
    "cuda": ["kernels/cuda/"],
}
MAX_LINES = 450


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in listed if name and (ROOT / name).exists()]


def includes():
    for name in tracked("*.h", "*.cc", "*.cu"):
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+["<]([^">]+)[">]', line)
            if match:
                yield name, number, match[1]


def test_includes_point_down():
    wrong = []
    for name, number, target in includes():
        here, there = name.split("/")[0], target.split("/")[0]
        if here in TOWER and there in TOWER and TOWER.index(there) > TOWER.index(here):
            wrong.append(f"{name}:{number} includes {target}")
    assert not wrong


def test_third_party_headers_have_one_owner():
    wrong = []
    for name, number, target in includes():
        for prefix, owners in OWNERS.items():
            if target.startswith(prefix) and not name.startswith(("tests/", *owners)):
                wrong.append(f"{name}:{number} includes {target}; only {owners} may")
    assert not wrong


def test_files_are_short():
    long = []
    for name in tracked("*.h", "*.cc"):
        lines = len((ROOT / name).read_text().splitlines())
        if lines > MAX_LINES and not name.startswith("kernels/"):
            long.append(f"{name}: {lines} lines, at most {MAX_LINES}")
    assert not long


@pytest.mark.parametrize("pattern", [r"\b(TODO|FIXME|XXX)\b", r"\bDISABLED_"])
def test_nothing_is_left_open(pattern):
    found = []
    for name in tracked("*.h", "*.cc", "*.cu", "*.py", "*.sh", "*.txt", "*.proto"):
        if name == "tests/tidy/test_tidy.py":
            continue
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found


def test_every_source_is_built():
    listed = "\n".join((ROOT / name).read_text() for name in tracked("*CMakeLists.txt"))
    dead = [name for name in tracked("*.cc") if not re.search(rf"(?<![\w-]){re.escape(pathlib.Path(name).name)}\b", listed)]
    assert not dead
