"""How long a look at the whole ledger takes, with many jobs in one lineage, against a plain walk.

`python -m tests.bench.bench_look [--jobs 6000]`

Folds so many finished jobs without a server, then times what a trainer asks at each look (`behind`)
and at each sweep (`version_with` of every segment). The walk is the search of all segments for each
job; it is timed on some of the jobs and counted up to all. Prints one JSON object, in seconds; the
ratio says how many times faster the look is than the walk in the same process.
"""

import argparse
import json
import time
from collections.abc import Callable

from shared.files import sha256_bytes
from shared.ledger.jobs import Table
from shared.protocol.names import JobId
from tests.unit.test_ledger import Stream, closed, create, opened

SAMPLE = 50


def filled(jobs: int) -> Table:
    """The table after so many jobs of one lineage, each trained in one segment."""
    stream = Stream()
    stream.line("create", create())
    for number in range(jobs):
        job, segment = JobId("main", sha256_bytes(b"%d" % number), 1), f"{number:012x}"
        stream.job("submit", job)
        fence = opened(stream, segment, job)
        stream.job("run", job, state="running", segment=segment, fence=fence)
        closed(stream, segment, fence, "done", 1, number + 1)
        stream.job("done", job, state="done")
    return stream.table


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(jobs: int) -> dict[str, float]:
    table = filled(jobs)
    line, sample = table.lines["main"], list(table.jobs)[:: max(1, jobs // SAMPLE)]

    def walk() -> None:
        for job in sample:
            assert [s for s in line.segments.values() if s.job == job][-1:]

    def sweep() -> None:
        for segment in line.segments.values():
            assert line.version_with(segment)

    look, walked = seconds(table.behind), seconds(walk) * jobs / len(sample)
    return {
        "jobs": jobs,
        "look": round(look, 4),
        "walk": round(walked, 4),
        "ratio": round(walked / look, 1),
        "versions_of_all_segments": round(seconds(sweep), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=6_000)
    print(json.dumps(measure(parser.parse_args().jobs)))


if __name__ == "__main__":
    main()
