"""Snapshots with numbers that are none, or that are malformed: they are shown, and all goes on."""

import io
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.formats.snapshot_parquet import decode_snapshot
from tests.command_line import Evolution, duramen, evolution_service
from tests.history import forging
from tests.integration.test_evolution import has_snapshots, measured, metric
from tests.snapshots import Measurement
from tests.stack import Stack, wait_until

NAN, INFINITE = math.nan, math.inf


def changed(data: bytes, **columns: pa.Array | None) -> bytes:
    """A Parquet file with these columns in place of its own; None: without."""
    table = pq.read_table(io.BytesIO(data))
    for name, column in columns.items():
        table = table.drop([name])
        if column is not None:
            table = table.append_column(name, column)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


async def train(stack: Stack, lineage: str) -> str:
    """Train one job whose second snapshot has no numbers and whose next ones are malformed; return
    its dataset."""
    twice = [Measurement("a", 1.0, True), Measurement("a", 1.0, True)]
    async with forging(stack, lineage) as forged:
        job = await forged.queue(f"numbers-{lineage}.jsonl", 8)
        await forged.open(job)
        await forged.plan(job, 8)
        await forged.snapshot(0, measured(a=(3.0, False), b=(3.0, False)))
        await forged.snapshot(1, measured(a=(NAN, False), b=(INFINITE, False), c=(1.0, False)))
        key = await forged.snapshot(2, measured(a=(1.0, True)))
        good = forged.store("trainer").read("work", key)
        words = changed(good, loss=pa.array(["much"]), global_step=pa.array([3]))
        await forged.snapshot(3, [], data=words)
        await forged.snapshot(4, [], data=b"PAR1 and then nothing of the kind")
        await forged.snapshot(5, twice)
        await forged.snapshot(8, measured(a=(0.1, True), b=(NAN, False)))
        await forged.close("done", forged.checkpoint(8, 8))
    return job.id.sha256


async def test_what_is_not_a_number_is_shown_and_stops_nothing(
    stack: Stack, lineage: str, tmp_path: Path
) -> None:
    dataset = await train(stack, lineage)
    with evolution_service(stack, tmp_path / "state") as service:
        wait_until(has_snapshots(service, dataset, 4), 30, "what can be used is read")
        wait_until(lambda: is_closed(service, dataset), 30, "the job's end is seen")
        assert metric(service, "duramen_snapshots_damaged") >= 3
        shown = service.ask(f"snapshots/{dataset}")["snapshots"]
        assert [each["global_step"] for each in shown] == [0, 1, 2, 8]
        second = shown[1]["splits"]["trained"]
        assert (second["count"], second["not_a_number"], second["loss"]) == (3, 2, 1.0)
        probes = {p["expected"]: p for p in service.ask(f"summary/{dataset}")["probes"]}
        assert probes["a"]["state"] == "learned"
        assert (probes["b"]["loss_first"], probes["b"]["loss_last"]) == (3.0, None)
        life = service.ask(f"example/{probes['b']['probe']}")
        assert [point["loss"] for point in life["points"]] == [3.0, None, None]
        compared = service.ask("compare", a=f"{dataset}@0", b=f"{dataset}@8")
        changes = {each["expected"]: each["change"] for each in compared["examples"]}
        assert changes == {"a": "better", "b": "worse"}
        assert commands_say_so(stack, service, dataset)


def is_closed(service: Evolution, dataset: str) -> bool:
    return bool(service.ask(f"snapshots/{dataset}")["snapshots"][-1]["is_final"])


def commands_say_so(stack: Stack, service: Evolution, dataset: str) -> bool:
    """True if each command that shows a loss says of one that it is not a number."""
    commands = (
        ("show", dataset),
        ("example", dataset, "2"),
        ("compare", f"{dataset}@0", f"{dataset}@8"),
    )
    for words in commands:
        said = duramen(stack, "evolution", *words, evolution_url=service.url)
        assert said.returncode == 0, (words, said.stderr)
        assert "not a number" in said.stdout, (words, said.stdout)
    return True


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"loss": None}, "loss"),
        ({"loss": pa.array([None], pa.float64())}, "missing in loss"),
        ({"probe": pa.array([None], pa.string())}, "missing in probe"),
        ({"row": pa.array(["first"])}, "first"),
        ({"pieces": pa.array([["one"]])}, "differ in number"),
        ({"split": pa.array(["unheard"])}, "does not know"),
    ],
)
async def test_a_malformed_file_is_refused_by_name(
    stack: Stack, lineage: str, columns: dict[str, pa.Array | None], problem: str
) -> None:
    async with forging(stack, lineage) as forged:
        await forged.open(await forged.queue(f"malformed-{lineage}.jsonl", 8))
        key = await forged.snapshot(0, measured(a=(3.0, False)), announce=False)
        good = forged.store("trainer").read("work", key)
    assert decode_snapshot(good).rows[0]["loss"] == 3.0
    with pytest.raises((pa.ArrowException, LookupError, ValueError), match=problem):
        decode_snapshot(changed(good, **columns))
