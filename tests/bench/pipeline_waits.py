#!/usr/bin/env python3
"""How much of a run each stage waited, from the file that `coppice run --trace FILE` wrote.

    pipeline_waits.py FILE [--skip 10] [--at-most PERCENT]

The start and the end of a run are left out: a stage's window goes from the start of the first forward of its 10th pack to the end of
the last forward or backward of its 10th last pack (--skip; packs in the order of their first forward on that stage). In the window:
waits are the spans named `wait`, work those named forward, backward, update and publish, the rest is what no span names. The busiest
stage is the one with the largest share of work. Exit status 1 where the busiest stage waits for more than --at-most percent; 2 where the
file cannot tell.
"""

import argparse
import collections
import json
import sys

WORK = {"forward", "backward", "update", "publish"}

Window = collections.namedtuple("Window", "rank name seconds waits work packs")


def read_events(path):
    """The events; a file without its closing bracket, as a killed run leaves it, loses only a line that is not whole."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        events = json.loads(text)
    except json.JSONDecodeError:
        whole = text[: text.rfind("\n") + 1].rstrip().rstrip(",")
        events = json.loads(whole + "\n]")
    return events["traceEvents"] if isinstance(events, dict) else events


def covered(intervals):
    """The length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for a, b in sorted(intervals):
        total += max(0.0, b - max(a, end))
        end = max(end, b)
    return total


def share(spans, names, begin, end):
    inside = [(max(begin, a), min(end, b)) for name, a, b, _ in spans if name in names and a < end and b > begin]
    return covered(inside) / (end - begin)


def window(rank, name, spans, skip):
    """spans: (name, begin, end, pack) of one stage."""
    first_forward, last_end = {}, {}
    for what, begin, end, pack in spans:
        if what == "forward":
            first_forward[pack] = min(begin, first_forward.get(pack, begin))
        if what in ("forward", "backward"):
            last_end[pack] = max(end, last_end.get(pack, end))
    packs = sorted(first_forward, key=first_forward.get)
    if len(packs) < 2 * skip:
        raise ValueError(f"{name} ran {len(packs)} packs; at least {2 * skip} are needed to leave out {skip} at each end")
    begin, end = first_forward[packs[skip - 1]], last_end[packs[-skip]]
    return Window(rank, name, (end - begin) / 1e6, share(spans, {"wait"}, begin, end), share(spans, WORK, begin, end), len(packs))


def stage_windows(events, skip):
    names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    spans = collections.defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            spans[e["pid"]].append((e["name"], e["ts"], e["ts"] + e["dur"], e["args"].get("pack")))
    stages = sorted(rank for rank, name in names.items() if "stage" in name)
    if not stages:
        raise ValueError("no process of the trace is named a stage")
    return [window(rank, names[rank], spans[rank], skip) for rank in stages]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--skip", type=int, default=10, help="packs left out at each end of each stage, of which the last is the edge")
    parser.add_argument("--at-most", type=float, help="percent that the busiest stage may wait")
    arguments = parser.parse_args()
    if arguments.skip < 1:
        parser.error(f"--skip is {arguments.skip}; at least 1 is accepted")
    try:
        windows = stage_windows(read_events(arguments.file), arguments.skip)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 2
    print(f"{'':48} {'packs':>7} {'window s':>9} {'waits %':>8} {'work %':>7} {'rest %':>7}")
    for w in windows:
        rest = max(0.0, 1 - w.waits - w.work)
        print(f"{w.name:48} {w.packs:7} {w.seconds:9.3f} {100 * w.waits:8.2f} {100 * w.work:7.2f} {100 * rest:7.2f}")
    busiest = max(windows, key=lambda w: w.work)
    print(f"busiest: {busiest.name}: waits {100 * busiest.waits:.2f} %")
    if arguments.at_most is not None and 100 * busiest.waits > arguments.at_most:
        print(f"that is more than {arguments.at_most} %", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
