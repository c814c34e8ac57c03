"""A smaller form of tests/bench/many_jobs.py: many clients at once, all jobs end, memory stays within the memory model's figure."""

import sys

from job_files import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))
from many_jobs import measure  # noqa: E402


def test_many_jobs_of_many_clients_end_within_the_models_memory(program):
    tokens_per_second, peak_mib, figure_mib = measure(program, jobs=40, clients=8, steps=2, flags=[])
    assert tokens_per_second > 0
    assert 0 < peak_mib <= figure_mib
