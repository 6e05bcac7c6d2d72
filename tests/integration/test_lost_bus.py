"""The bus is lost and a place outlives it: what that place holds is never taken for what is new."""

import shutil
from pathlib import Path
from typing import Any

import httpx

from services.trainer.supervisor import retention
from shared.formats.version import CommitRecord
from shared.ledger.control import observed
from shared.protocol.records import CheckpointRef
from shared.store import layout
from shared.store.place import PRECIOUS, WORK
from tests.history import Forged, encoded, forging
from tests.services import House, until
from tests.stack import Stack, wait_until
from tests.vault_history import Forge, VaultProcess, first_version, latest_of


def begin_anew_with(stack: Stack, kept: set[str]) -> None:
    """Empty the disks of all servers but those named, and start again on them."""
    stack.down()
    for name in {"nats", "store", "backup", "archive"} - kept:
        folder: Path = getattr(stack.home, name)
        shutil.rmtree(folder)
        folder.mkdir()
    shutil.rmtree(stack.home.state("vault"))
    stack.up()


def alarm(vault: VaultProcess, what: str) -> dict[str, Any] | None:
    """Return the alarm of a kind that stands; None also while the service does not answer."""
    assert vault.alive(), vault.log.read_text()[-3000:]
    try:
        standing = vault.ask("/api/alarms")
    except httpx.TransportError:
        return None
    return next((each for each in standing if each["what"] == what), None)


async def test_a_backup_that_outlived_the_bus_gives_no_new_version_its_old_bytes(
    own_stack: Stack,
) -> None:
    """The new close even has the ledger sequence of the old one."""
    vault = VaultProcess(own_stack)
    try:
        old = await first_version(own_stack, "main", vault)
        vault.kill()
        begin_anew_with(own_stack, {"backup"})
        vault.start()
        wait_until(lambda: alarm(vault, "ledger_lost") is not None, 30, "it tells of a lost bus")
        new = await Forge(own_stack, "main").begin()
        close = await new.train()
        assert new.table.lines["main"].versions == old.table.lines["main"].versions
        wait_until(lambda: alarm(vault, "not_published") is not None, 60, "an alarm")
        said = alarm(vault, "not_published")
        assert said is not None
        assert said["about"] == "main/v001"
        assert "is the commit of another close" in said["detail"]
        row = vault.until_state("main", 1, "pending")
        assert "another close" in row["reason"]
        copies, key = vault.copies(), "catalog/main/v001.json"
        assert list(copies.backup.keys(PRECIOUS, key)) == [key]
        assert not list(copies.store.keys(PRECIOUS, key))
        assert not list(copies.store.keys(PRECIOUS, "lineages/"))
        assert latest_of(copies, "main") == {None, 1}
        assert close.head.checkpoint is not None
        assert list(copies.store.keys(WORK, close.head.checkpoint.prefix))
    finally:
        vault.kill()


async def test_places_that_all_outlived_the_bus_settle_nothing(own_stack: Stack) -> None:
    vault = VaultProcess(own_stack)
    try:
        await first_version(own_stack, "main", vault)
        vault.kill()
        begin_anew_with(own_stack, {"store", "backup", "archive"})
        (own_stack.home.archive / layout.TAIL_IN_ARCHIVE).unlink(
            missing_ok=True
        )  # as 0.1.0 left them
        own_stack.minio("admin").remove_object(WORK, layout.audit_tail())
        await (await Forge(own_stack, "main").begin()).train()
        vault.start()
        wait_until(lambda: vault.metric("duramen_vault_pending_versions") == 1, 60, "pending")
        vault.await_round()
        assert vault.metric("duramen_vault_published_versions") == 0
    finally:
        vault.kill()


async def test_no_job_is_claimed_where_a_place_has_versions_and_the_ledger_none(
    house: House,
) -> None:
    vault = VaultProcess(house.stack)
    root = house.add_base()
    places = {place.name: place for place in vault.copies().places}
    for name, place in places.items():
        place.put_bytes(PRECIOUS, f"catalog/in-{name}/v001.json", b"of another life")
        await house.create(f"in-{name}", root)
    vault.start()
    try:
        async with house.bus("ctl") as bus:

            async def told() -> bool:
                said = await observed(bus, "vault")
                return said is not None and said.orphaned == {f"in-{n}": [n] for n in places}

            async def waits() -> str | None:
                said = await observed(bus, "trainer")
                why = str(said.waiting) if said else ""
                return why if why.count("bus was lost") == len(places) else None

            await until(told, "the vault tells", 30)
            asked, answered = ("user", "What is it?"), ("assistant", "It.")
            jobs = [await house.submit(f"in-{name}", [[asked, answered]]) for name in places]
            with house.service("trainer"):
                why = await until(waits, "the trainer says why it waits", 60)
            assert all(f"versions are in the {name}: the bus was lost" in why for name in places)
            for job in jobs:
                table = await house.until_state(job, "queued", 5)
                assert table.lines[job.lineage].open_segment is None
        assert alarm(vault, "ledger_lost") is not None
    finally:
        vault.kill()


async def trained(forged: Forged, name: str, steps: int) -> CheckpointRef:
    """Train a job from its file to a close that gives a version."""
    await forged.open(await forged.queue(name, 3))
    await forged.plan(forged.table.jobs[forged.open_segment.job], steps)
    left = forged.checkpoint(steps, forged.open_segment.record.global_step + steps)
    await forged.close("done", left)
    return left


async def test_a_checkpoint_stays_until_the_commit_of_its_own_close_is_there(
    stack: Stack, lineage: str
) -> None:
    async with forging(stack, lineage) as forged:
        first = await trained(forged, "first.jsonl", 2)
        store = forged.store("trainer")
        sequence, key = forged.line.versions[1], f"catalog/{lineage}/v001.json"
        foreign = CommitRecord(
            lineage=lineage,
            version=1,
            ledger_sequence=sequence,
            prefix=f"lineages/{lineage}/v001/",
            manifest_sha256="0" * 64,
            base_root=forged.root,
            dataset_sha256="1" * 64,
            files=[],
            verified_copies=3,
        )
        forged.store("vault").put_bytes(PRECIOUS, key, encoded(foreign))
        second = await trained(forged, "second.jsonl", 2)
        retention.sweep_ended(store, forged.line)
        for ref in (first, second):
            assert list(store.keys(WORK, f"{ref.prefix}/")), "no commit holds it"
        forged.publish(2)
        third = await trained(forged, "third.jsonl", 2)
        retention.sweep_ended(store, forged.line)
        assert list(store.keys(WORK, f"{first.prefix}/")), "v001 is another's"
        assert not list(store.keys(WORK, f"{second.prefix}/")), "v002 holds it"
        assert list(store.keys(WORK, f"{third.prefix}/")), "it is the head"
