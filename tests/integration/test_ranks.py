"""A job's adapter has the same bits in one process and over ranks, however many there are of each kind.

COPPICE_TEST_LONG=1 runs the product; without it a set that covers every pair of two settings.
"""

import itertools
import random

import pytest
from bits import LONG, SUBJECTS, differing, others
from ranks import Shape, mpirun

# transport, stages, pipelines, parameter ranks, other jobs. The last column is what is computed in: one of the set in bfloat16.
COVERING = [
    ("mpi", 1, 1, 0, 7, "float32"), ("mpi", 1, 2, 1, 31, "float32"), ("loopback", 1, 2, 2, 7, "float32"),
    ("mpi", 2, 2, 0, 31, "float32"), ("loopback", 2, 1, 1, 7, "float32"), ("mpi", 2, 1, 2, 31, "bfloat16"),
    ("loopback", 4, 2, 0, 31, "float32"), ("mpi", 4, 2, 1, 7, "float32"), ("mpi", 4, 1, 2, 7, "float32"), ("loopback", 2, 2, 2, 31, "float32"),
]  # fmt: skip
PRODUCT = list(itertools.product(("loopback", "mpi"), (1, 2, 4), (1, 2), (0, 1, 2), (7, 31), ("float32", "bfloat16")))


def test_the_set_covers_every_pair():
    for first, second in itertools.combinations(range(5), 2):
        pairs = {(entry[first], entry[second]) for entry in COVERING}
        assert pairs == {(entry[first], entry[second]) for entry in PRODUCT}, (first, second)
    assert {entry[5] for entry in COVERING} == {entry[5] for entry in PRODUCT}


@pytest.mark.parametrize("transport,stages,pipelines,shards,beside,dtype", PRODUCT if LONG else COVERING)
def test_same_bits_over_ranks(runs, alone, transport, stages, pipelines, shards, beside, dtype):
    shape = Shape(stages, pipelines, shards)
    jobs = SUBJECTS + others(beside)
    random.Random(f"{shape} {beside}").shuffle(jobs)
    before = mpirun(shape.ranks) if transport == "mpi" else ()
    runs.run("mixed", jobs, *shape.flags, "--threads", 1, "--dtype", dtype, before=before)
    assert differing(runs.tensors("mixed", SUBJECTS), alone, dtype) == []
    runs.run("mixed", jobs, *shape.flags, "--threads", 1, "--dtype", "auto", before=before)  # which is what it was, on all ranks
    # Every shard has had its part, or the names of the tests would promise more than they do.
    stores = sorted(path.name for path in (runs.folder / "mixed" / "store").glob("shard-*"))
    assert stores == [f"shard-{1 + shard}" for shard in range(shards)]
