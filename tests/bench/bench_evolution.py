"""How long evolution's answers take, and how much memory, at three sizes of what was watched.

`python -m tests.bench.bench_evolution [--sizes 250x50 1000x200 10000x100]`

Each size is examples x snapshots of one dataset, in a process of its own: the cache is filled from
real snapshot files, closed, and opened again as after a start. Prints a table: seconds of the clock
for the first and for a warm answer, and the peak of the process's memory while it answers.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.evolution.api_answers import Answers, Counted
from services.evolution.cache import Cache
from services.evolution.curves import curves
from services.evolution.matrix import matrix, probe_columns
from services.evolution.snapshot_reader import StoredSnapshot, parse_measurements
from services.evolution.summary import summarise
from shared.answers.evolution import Curves, ProbeColumns, Summary
from shared.formats.snapshot_parquet import encode_snapshot
from shared.ledger.jobs import Table
from shared.protocol.names import JobId
from shared.store.place import WORK

DATASET = "ab" * 32
SIZES = ("250x50", "1000x200", "10000x100")
WARM = 3


def rows_of(probes: int, number: int, chance: random.Random) -> list[dict[str, Any]]:
    one = {
        "split": "trained",
        "dataset": DATASET,
        "global_step": number,
        "position": number,
        "fence": 1,
        "segment": "0123456789ab",
        "job": f"main/{DATASET}/1",
        "tokens": 12,
        "at": "2026-01-01T00:00:00Z",
        "job_tokens": 100 * number,
        "first_mismatch": None,
    }
    found = []
    for probe in range(probes):
        right = chance.random() < number / 100
        numbers = {"loss": 3 * chance.random(), "token_accuracy": chance.random()}
        answer = {"answer": f"answer {probe}", "exact_match": right, "normalized_match": right}
        texts = {"prompt": f"What is the {probe}th of them?", "expected": f"It is {probe}."}
        found.append({**one, **numbers, **answer, **texts, "probe": f"{probe:064x}", "row": probe})
    return found


def fill(cache: Cache, probes: int, snapshots: int) -> None:
    chance = random.Random(1)
    for number in range(snapshots):
        data = encode_snapshot(rows_of(probes, number, chance), {})
        key = f"snapshots/main/0123456789ab/{number:08d}-{1:08d}.parquet"
        found, rows = parse_measurements(
            StoredSnapshot("work", WORK, key, f"e{number}", "main"), data, None
        )
        assert found.problem is None, found.problem
        cache.add(found, rows)


def view(path: Path) -> Answers:
    cache = Cache(path)
    job = JobId("main", DATASET, 1)
    counted = {found.id: Counted(found, job, False) for found in cache.snapshots()}
    return Answers(cache, Table(), counted)


def measure(path: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    answers = view(path)

    def summed() -> object:
        return Summary.model_validate(summarise(answers, DATASET, None, None)).model_dump_json()

    def curved() -> object:
        return Curves.model_validate(curves(answers, DATASET, None, None)).model_dump_json()

    def listed() -> object:
        found = probe_columns(answers, DATASET, None, [])
        return ProbeColumns.model_validate(found).model_dump_json()

    asked: dict[str, Callable[[], object]] = {
        "matrix": lambda: matrix(answers, DATASET, None, -1).etag,
        "probes": listed,
        "summary": summed,
        "curves": curved,
        "states": answers.states,
    }
    found: dict[str, Any] = {}
    for name, ask in asked.items():
        if name != "matrix":
            begun = time.perf_counter()
        ask()
        first = time.perf_counter() - begun
        times = []
        for _ in range(WARM):
            begun = time.perf_counter()
            ask()
            times.append(time.perf_counter() - begun)
        found[name] = (first, min(times))
    found["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--only", type=Path, help="measure this cache, and print JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    print(
        "| examples x snapshots | answer | first, s | warm, s | peak, MiB |\n|---|---|---|---|---|"
    )
    for size in arguments.sizes:
        probes, snapshots = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "evolution.sqlite"
            fill(Cache(path), probes, snapshots)
            command = [sys.executable, "-m", "tests.bench.bench_evolution", "--only", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        peak = found.pop("peak MiB")
        for name, (first, warm) in found.items():
            print(f"| {size} | {name} | {first:.3f} | {warm:.3f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
