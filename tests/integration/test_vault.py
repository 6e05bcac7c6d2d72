"""The vault publishes what the ledger numbered, three times and once, whatever is killed."""

import asyncio
import io
import json
import random
import shutil
import time
from pathlib import Path

import pytest

from services.ctl.commands.restore import Restore, refuse_filled
from services.ctl.errors import TargetNotEmpty
from services.vault import catalog, edition, publish, readme
from services.vault.copies import Copies
from shared.errors import AlreadyExists
from shared.files import sha256_bytes
from shared.formats.version import CommitRecord, are_one_commit, parse_sums, version_name
from shared.store.place import PRECIOUS, WORK
from tests.services import until
from tests.stack import Stack, wait_until
from tests.vault_history import Forge, VaultProcess, check_sums, first_version, latest_of

FILES = 10  # of a version, as the forge makes it
ROUNDS = 8  # of training, each ended by a kill


@pytest.fixture
def stack(own_stack: Stack) -> Stack:
    """Servers of one test: a vault looks at every lineage that there is."""
    return own_stack


def commit_of(copies: Copies, lineage: str, version: int) -> CommitRecord:
    """The commit, which is the same in all three places."""
    key = f"catalog/{lineage}/{version_name(version)}.json"
    found = [place.read(PRECIOUS, key) for place in copies.places]
    assert are_one_commit(found)
    return CommitRecord.model_validate_json(found[0])


def count(copies: Copies, prefix: str) -> int:
    """Objects of the backup."""
    return len(list(copies.backup.keys(PRECIOUS, prefix)))


async def wait_latest(copies: Copies, lineage: str, version: int) -> None:
    wait_until(lambda: latest_of(copies, lineage) == {version}, 30, f"latest is {version}")


async def test_a_close_becomes_a_version_with_three_equal_copies(
    stack: Stack, lineage: str, vault: VaultProcess, tmp_path: Path
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    vault.start()
    row = vault.until_state(lineage, 1, "published")
    assert (row["steps"], row["copies"], row["domains"]) == (10, 3, 1)
    copies = vault.copies()
    await wait_latest(copies, lineage, 1)
    commit = commit_of(copies, lineage, 1)
    paths = {file.path for file in commit.files}
    assert {"adapter/adapter_model.safetensors", "training/header.json", "README.md"} <= paths
    assert {"metrics.jsonl", "job.log", "MANIFEST.json", "SHA256SUMS"} <= paths
    assert all(file.store_version_id and file.backup_version_id for file in commit.files)
    for place in copies.places:
        for file in commit.files:
            assert place.read_hash(PRECIOUS, commit.prefix + file.path)[0] == file.sha256
        assert place.read_hash(PRECIOUS, f"bases/{forge.root}/SHA256SUMS")[0] == forge.root
        assert place.read_hash(PRECIOUS, f"datasets/{commit.dataset_sha256}/data.jsonl")
    assert not list(copies.store.keys(WORK, f"staging/bases/{forge.root}/"))
    assert not [alarm for alarm in vault.ask("/api/alarms") if "probe" in alarm["about"]]
    target = tmp_path / "v001"
    stores = [copies.store, copies.backup]
    Restore(stores, quiet=True).run(lineage, "v001", target, with_base=True)
    check_sums(target)
    check_sums(target / "base")
    with pytest.raises(TargetNotEmpty):
        refuse_filled(target)
    value = vault.ask(f"/api/versions/{lineage}/1/verify?with_base=true", "POST")
    assert value["ok"], value


@pytest.mark.kill_points
async def test_killed_at_any_moment_it_converges_to_one_commit(
    stack: Stack, lineage: str, vault: VaultProcess, kill_seed: int
) -> None:
    forge = await Forge(stack, lineage).begin()
    rng = random.Random(kill_seed)
    copies = vault.copies()
    files = commits = cut_off = rounds = 0
    # A publish is short: where all kills came after one, more are tried.
    while rounds < ROUNDS or (cut_off == 0 and rounds < 5 * ROUNDS):
        rounds += 1
        await forge.train()
        vault.start()
        goal = files + rng.randint(1, FILES - 2)
        deadline = time.monotonic() + 60
        while count(copies, f"lineages/{lineage}/") < goal:  # without a pause, which were too long
            assert time.monotonic() < deadline, "files"
        await asyncio.sleep(rng.uniform(0.0, 0.02))  # a seeded moment after that file
        vault.kill()
        files, commits = (
            count(copies, f"lineages/{lineage}/"),
            count(copies, f"catalog/{lineage}/v"),
        )
        cut_off += files != commits * FILES
    assert cut_off > 0, "no kill fell into a publish"
    vault.start()
    for number in range(1, rounds + 1):
        vault.until_state(lineage, number, "published")
        commit = commit_of(copies, lineage, number)
        for place in copies.places:
            for file in commit.files:
                assert place.read_hash(PRECIOUS, commit.prefix + file.path)[0] == file.sha256
        for store in (copies.store, copies.backup):
            key = f"catalog/{lineage}/{version_name(number)}.json"
            found = [store.read(PRECIOUS, key, v.version_id) for v in store.versions(PRECIOUS, key)]
            assert are_one_commit(found)
    await wait_latest(copies, lineage, rounds)


async def test_a_late_write_of_a_killed_vault_makes_no_other_commit(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    copies = vault.copies()
    version = edition.wanted(forge.table, forge.table.lines[lineage], 1)
    ours = publish.commit_record(version, publish.ensure_files(copies, version))
    # What the killed vault had sent of the same file is there now, too, and in its record.
    file = ours.files[0]
    key = version.prefix + file.path
    data = copies.backup.read(PRECIOUS, key)
    sent = stack.minio("vault", "backup").put_object("duramen", key, io.BytesIO(data), len(data))
    its = file.model_copy(update={"backup_version_id": sent.version_id})
    theirs = ours.model_copy(update={"files": [its, *ours.files[1:]]})
    copies.backup.create(PRECIOUS, version.commit_key, catalog.encode(ours))
    copies.store.create(PRECIOUS, version.commit_key, catalog.encode(theirs))
    # A record of other bytes is another one, and is refused.
    wrong = ours.model_copy(update={"manifest_sha256": "0" * 64})
    with pytest.raises(AlreadyExists):
        publish.roll_forward(copies.backup, version.commit_key, catalog.encode(wrong))

    vault.start()
    vault.until_state(lineage, 1, "published")
    assert commit_of(copies, lineage, 1) == ours
    vault.await_round()
    assert not [a for a in vault.ask("/api/alarms") if lineage in a["about"]]
    assert vault.ask(f"/api/versions/{lineage}/1/verify", "POST")["ok"]


@pytest.mark.parametrize("only", ["README.md", None])
async def test_a_readme_of_another_wording_that_lies_there_uncommitted_is_published_as_it_is(
    stack: Stack,
    lineage: str,
    vault: VaultProcess,
    monkeypatch: pytest.MonkeyPatch,
    only: str | None,
) -> None:
    """Killed after the README of one place, or after all files; then the program was replaced."""
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    copies = vault.copies()
    version = edition.wanted(forge.table, forge.table.lines[lineage], 1)
    checkpoint = version.close.head.checkpoint
    assert checkpoint is not None
    with monkeypatch.context() as before:
        before.setattr(readme, "TEXT", "# {lineage} {name}, in the words of an older program\n")
        old = readme.render_readme(version, checkpoint)
        if only:
            copies.backup.put_bytes(PRECIOUS, version.prefix + only, old)
        else:
            publish.ensure_files(copies, version)
    assert readme.render_readme(version, checkpoint) != old
    vault.start()
    vault.until_state(lineage, 1, "published")
    for place in copies.places:
        assert place.read(PRECIOUS, f"{version.prefix}README.md") == old
    commit = commit_of(copies, lineage, 1)
    sha256 = {file.path: file.sha256 for file in commit.files}["README.md"]
    assert sha256 == sha256_bytes(old)
    manifest = catalog.read_manifest(copies, commit)
    assert {file.path: file.sha256 for file in manifest.files}["README.md"] == sha256
    listed = copies.store.read(PRECIOUS, f"{version.prefix}SHA256SUMS")
    assert parse_sums(listed)["README.md"] == sha256
    assert vault.ask(f"/api/versions/{lineage}/1/verify", "POST")["ok"]


async def test_what_a_place_loses_is_counted_and_copied_there_again(
    own_stack: Stack, lineage: str
) -> None:
    """On servers of its own: all lineages are counted."""
    vault = VaultProcess(own_stack)
    vault.sweep_seconds = 1
    try:
        await lose_and_damage(own_stack, lineage, vault)
    finally:
        vault.kill()


async def lose_and_damage(stack: Stack, lineage: str, vault: VaultProcess) -> None:
    forge = await first_version(stack, lineage, vault)
    wait_until(lambda: vault.metric("duramen_vault_copies") == 3, 30, "three copies")
    archive = stack.home.archive
    commit = archive / f"catalog/{lineage}/v001.json"
    version = archive / f"lineages/{lineage}/v001"
    listed = (version / "SHA256SUMS").read_bytes()
    shutil.rmtree(version)
    assert not vault.ask(f"/api/versions/{lineage}/1/verify", "POST")["ok"]
    wait_until(lambda: vault.metric("duramen_vault_copies") == 2, 30, "two copies")
    commit.unlink()
    wait_until(commit.exists, 30, "it is there again")
    wait_until(lambda: vault.metric("duramen_vault_copies") == 3, 30, "three copies again")
    assert not [a for a in vault.ask("/api/alarms") if lineage in a["about"]]
    # A folder that is not there now has lost nothing.
    archive.rename(archive.with_name("unmounted"))
    archive.mkdir()
    outages = 'duramen_errors_total{condition="StoreUnavailable"}'
    before = vault.metric(outages)
    wait_until(lambda: vault.metric(outages) >= before + 6, 30, "several looks that failed")
    shutil.rmtree(archive)
    archive.with_name("unmounted").rename(archive)
    vault.await_round()
    assert vault.version(lineage, 1)["state"] == "published"  # type: ignore[index]
    assert not [a for a in vault.ask("/api/alarms") if lineage in a["about"]]
    assert (version / "SHA256SUMS").read_bytes() == listed
    check_sums(version)
    # A damaged one is no copy; it is never written over.
    path = version / "README.md"
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert not vault.ask(f"/api/versions/{lineage}/1/verify", "POST")["ok"]
    wait_until(lambda: vault.metric("duramen_vault_copies") == 2, 30, "two copies")
    async with forge.bus("ctl") as bus:
        told = [e async for e in bus.read("EVT", 0, "evt.vault.version_published")]
    assert sum(lineage in e.data.decode() for e in told) == 1


async def test_two_vaults_at_once_make_one_commit(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await Forge(stack, lineage).begin()
    for _ in range(3):
        await forge.train()
    other = VaultProcess(
        stack,
        DURAMEN_STATE_DIR=str(stack.home.state("vault-2")),
        DURAMEN_HTTP_PORT=str(stack.ports.console),
    )
    try:
        vault.start()
        other.start()
        copies = vault.copies()
        for number in (1, 2, 3):
            vault.until_state(lineage, number, "published")
            commit = commit_of(copies, lineage, number)
            for place in (copies.store, copies.backup):
                for file in commit.files:
                    version_id = getattr(file, f"{place.name}_version_id")
                    found = place.read_hash(PRECIOUS, commit.prefix + file.path, version_id)
                    assert found[0] == file.sha256
        await wait_latest(copies, lineage, 3)
        vault.await_round()
        other.await_round()
        assert vault.alive()
        assert other.alive()
        for process in (vault, other):
            assert not [a for a in process.ask("/api/alarms") if lineage in a["about"]]
    finally:
        other.kill()


async def test_a_damaged_source_gets_no_name_and_is_published_once_it_is_whole(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await Forge(stack, lineage).begin()
    close = await forge.train()
    assert close.head.checkpoint is not None
    key = f"{close.head.checkpoint.prefix}/optimizer.safetensors"
    trainer = forge.store("trainer")
    whole = trainer.read(WORK, key)
    trainer.put_bytes(WORK, key, whole[:-1] + b"x")
    vault.start()

    def reason() -> str:  # the servers are shared: other lineages may be pending, too
        return str((vault.version(lineage, 1) or {}).get("reason") or "")

    wait_until(lambda: bool(reason()), 60, "the version waits and says why")
    assert "SHA-256" in reason()
    for place in vault.copies().places:
        assert not list(place.keys(PRECIOUS, f"lineages/{lineage}/v001/training/optimizer"))
    trainer.put_bytes(WORK, key, whole)
    vault.until_state(lineage, 1, "published")


async def test_without_the_backup_nothing_is_published_until_it_is_back(own_stack: Stack) -> None:
    forge = await Forge(own_stack, "main").begin()
    vault = VaultProcess(own_stack)
    try:
        await forge.train()
        vault.start()
        vault.until_state("main", 1, "published")
        copies = vault.copies()
        own_stack.kill("backup")
        assert catalog.read_commit_anywhere(copies, "main", 1).version == 1
        await forge.train()
        wait_until(lambda: vault.metric("duramen_vault_pending_versions") == 1, 60, "pending")
        assert not list(copies.store.keys(PRECIOUS, "catalog/main/v002"))
        async with forge.bus("ctl") as bus:

            async def waiting() -> str | None:
                entry = await bus.last("OBS", "ctl.observed.vault.vault")
                text = str(json.loads(entry.data).get("waiting")) if entry else None
                return text if text and "v002" in text else None

            assert "backup" in await until(waiting, "the vault says what it waits for", 30)
        own_stack.start("backup")
        vault.until_state("main", 2, "published")
        assert vault.alive()
        assert vault.metric('duramen_vault_alarms_total{what="not_published"}') == 1
    finally:
        vault.kill()


async def test_a_lagging_publish_does_not_undo_a_rollback(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await first_version(stack, lineage, vault)
    copies = vault.copies()
    await wait_latest(copies, lineage, 1)
    vault.kill()
    await forge.train()
    nonce = await forge.ask(command="rollback", lineage=lineage, version=1)
    vault.start()
    answer = await forge.answer(nonce)
    assert answer["outcome"] == "done", answer
    vault.until_state(lineage, 2, "published")
    vault.await_round()
    assert latest_of(copies, lineage) == {1}
    again = json.loads(
        (copies.store.read_newest(PRECIOUS, f"catalog/{lineage}/latest.json") or (b"",))[0]
    )
    assert again["ledger_sequence"] == answer["receipt"]["ledger_sequence"]
    await forge.train()
    vault.until_state(lineage, 3, "published")
    await wait_latest(copies, lineage, 3)
    row = vault.version(lineage, 2)
    assert row is not None
    assert not row["in_ancestry"]


async def test_rollback_waits_for_no_living_owner_and_voids_a_dead_one(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    job, _ = await forge.submit(2)
    await forge.open(job)
    vault.start()
    vault.until_state(lineage, 1, "published")
    refused = await forge.answer(await forge.ask(command="rollback", lineage=lineage, version=1))
    assert refused["outcome"] == "void"
    assert str(job) in refused["why"]
    missing = await forge.answer(await forge.ask(command="rollback", lineage=lineage, version=9))
    assert missing["outcome"] == "void"
    forced = await forge.answer(
        await forge.ask(command="rollback", lineage=lineage, version=1, force=True)
    )
    assert forced["outcome"] == "done", forced
    async with forge.bus("trainer") as bus:
        await forge.table.update(bus)
    assert forge.table.lines[lineage].open_segment is None


async def test_an_emptied_archive_is_refused_and_a_new_one_is_filled(own_stack: Stack) -> None:
    forge = await Forge(own_stack, "main").begin()
    vault = VaultProcess(own_stack)
    vault.sweep_seconds = 1
    try:
        await forge.train()
        vault.start()
        vault.until_state("main", 1, "published")
        vault.kill()
        own_stack.home.archive.rename(own_stack.home.root / "unmounted")
        own_stack.home.archive.mkdir()
        await forge.train()
        vault.start()
        wait_until(lambda: vault.metric("duramen_vault_pending_versions") == 2, 60, "pending")
        assert not list(own_stack.home.archive.iterdir())
        (own_stack.home.state("vault") / "archive-id").unlink()
        for number in (1, 2):
            vault.until_state("main", number, "published")
            assert vault.ask(f"/api/versions/main/{number}/verify?with_base=true", "POST")["ok"]
    finally:
        vault.kill()
