"""ingest when servers go away and when it is killed: nothing is lost, nothing doubled."""

import asyncio
import gzip
import json
import random
from pathlib import Path

import pytest

from services.ingest.inbox.inbox import Inbox, InboxInUse
from services.ingest.outcome import admit
from services.ingest.reading import dataset
from shared.bus.client import Bus
from shared.ledger.control import Control, observed
from shared.ledger.jobs import Table
from tests.inbox import SECONDS, Box, row, rows
from tests.services import until


async def test_a_store_or_a_bus_that_is_away_is_waited_for(own_box: Box) -> None:
    box, stack = own_box, own_box.house.stack
    with box.running():
        for server in ("store", "nats"):
            box.drop(f"before-{server}.jsonl", row(f"{box.lineage} before {server}"))
            await box.ended(f"before-{server}.jsonl")
            stack.kill(server)
            path = box.drop(f"{server}.jsonl", row(f"{box.lineage} {server}"))
            if server == "store":
                async with box.house.bus("ctl") as bus:

                    async def says_so(bus: Bus = bus) -> bool:
                        said = await observed(bus, "ingest")
                        return bool(
                            said and said.state == "waiting" and "store" in (said.waits_for or "")
                        )

                    await until(says_so, "ingest says that it waits", SECONDS)
            assert path.exists() or box.left()
            assert not (box.root / f"done/{server}.jsonl").exists()
            stack.start(server)
            assert (await box.ended(f"{server}.jsonl")).outcome == "queued"
    assert len(await box.jobs()) == 4


async def test_paused_it_takes_nothing(own_box: Box) -> None:
    box = own_box
    async with box.house.bus("ctl") as bus:
        control = Control("ingest")
        await control.update(bus)
        await control.set_desired(bus, "paused", "test")
        path = box.drop("later.jsonl", row(box.lineage))
        with box.running():

            async def paused() -> bool:
                said = await observed(bus, "ingest")
                return bool(said and said.state == "paused")

            await until(paused, "ingest is paused", SECONDS)
            assert path.exists()
            await control.update(bus)
            await control.set_desired(bus, "running", "test")
            await box.ended("later.jsonl")


@pytest.mark.parametrize("cut", ["taken", "built", "stored", "queued", "reported"])
async def test_cut_off_between_any_two_steps_it_goes_on(box: Box, tmp_path: Path, cut: str) -> None:
    """The steps as far as `cut`, by the real functions; then the service starts."""
    box.drop("cut.jsonl", row(box.lineage))
    inbox = Inbox(box.root)
    (entry,) = inbox.look().entries
    taken = inbox.take(entry)
    assert taken is not None
    if cut != "taken":
        (tmp_path / dataset.ORIGINAL).write_bytes(taken.path.read_bytes())
        built = dataset.build_dataset(tmp_path, "cut.jsonl", dataset.ReadingRequest(1000))
    if cut in ("stored", "queued", "reported"):
        ref = admit.store_dataset(box.house.store("ingest"), built)
    if cut in ("queued", "reported"):
        async with box.house.bus("ingest") as bus:
            await admit.queue(bus, Table(), admit.Candidate(taken.origin, ref, 1))
    if cut == "reported":
        half = {"taken": taken.origin.id, "name": "cut.jsonl"}
        (box.root / "done/cut.jsonl.report.json").write_text(json.dumps(half))
    inbox.close()
    with box.running():
        report = await box.ended("cut.jsonl")
    (job,) = await box.jobs()
    assert (report.outcome, report.job, report.taken) == ("queued", job.id.path, taken.origin.id)
    assert len(job.history) == 1
    assert box.left() == []


async def test_an_inbox_has_one_owner(box: Box) -> None:
    with box.running():
        box.drop("first.jsonl", row(box.lineage))
        await box.ended("first.jsonl")
        with pytest.raises(InboxInUse):
            Inbox(box.root)


@pytest.mark.kill_points
async def test_killed_while_fifty_files_arrive_each_is_queued_exactly_once(
    box: Box, kill_seed: int
) -> None:
    """SIGKILL at random moments, with sidecars, packed, priority and bad files among them."""
    chance = random.Random(kill_seed)
    files: dict[str, bytes] = {}
    for n in range(50):
        data = rows(box, 2 + n % 5, f"file {n}")
        files[f"f{n}.jsonl.gz" if n % 4 == 0 else f"f{n}.jsonl"] = (
            gzip.compress(data) if n % 4 == 0 else data
        )
    bad = {f"bad{n}.jsonl": row(n) + b"{}\n" for n in range(6)}
    names, kills = [*files, *bad], 0
    chance.shuffle(names)
    fast = {"DURAMEN_SETTLE_SECONDS": "0.05"}
    process = box.start(**fast)
    try:
        while names:
            for name in [names.pop() for _ in range(min(6, len(names)))]:
                if name.startswith("f1"):
                    box.drop(name.partition(".")[0] + ".yaml", b"epochs: 5\n")
                folder = "" if name.startswith("f1") else chance.choice(["", "priority", "low"])
                box.drop(name, {**files, **bad}[name], folder)
            # A start takes a moment: some kills come before it, most while it works.
            await asyncio.sleep(chance.uniform(0.1, 2.0))
            process.kill()
            kills += 1
            process = box.start(**fast)
        reports = [await box.ended(name) for name in files]
        for name in bad:
            await box.ended(name, "rejected")
    finally:
        process.end()
    jobs = await box.jobs()
    assert sorted(job.record.name for job in jobs) == sorted(files)
    assert all(len(job.history) == 1 for job in jobs)
    assert {report.outcome for report in reports} == {"queued"}
    with_sidecar = {name for name in files if name.startswith("f1")}
    assert {j.record.name for j in jobs if j.record.settings.epochs == 5} == with_sidecar
    assert {p.name for p in (box.root / "done").glob("*.yaml")} == {
        f"{name}.yaml" for name in with_sidecar
    }
    done = {path.name for path in (box.root / "done").glob("*.jsonl*") if path.suffix != ".yaml"}
    rejected = {path.name for path in (box.root / "rejected").glob("*.jsonl")}
    assert {name for name in done if ".report." not in name} == set(files)
    assert rejected == set(bad)
    assert box.left() == []
    assert kills >= 8
