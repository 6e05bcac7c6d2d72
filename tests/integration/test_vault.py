"""The vault publishes what the ledger numbered, three times and once, whatever is killed."""

import asyncio
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from safetensors.numpy import save
from typer.testing import CliRunner

from services.ctl import base, versions
from services.ctl.versions import Restore, refuse_filled
from services.vault.copies import Copies
from shared.chat_templates import chat_template
from shared.errors import TargetNotEmpty, UsageError
from shared.manifest import (
    CommitRecord,
    version_name,
)
from shared.store import PRECIOUS, WORK
from tests.servers import Stack, wait_until
from tests.tiny import make_tiny
from tests.vault_stage import Forge, VaultProcess, until

FILES = 10  # of a version, as the forge makes it


@pytest.fixture
def vault(stack: Stack) -> Iterator[VaultProcess]:
    made = VaultProcess(stack)
    yield made
    made.kill()


def commit_of(copies: Copies, lineage: str, version: int) -> CommitRecord:
    """The commit, which is the same record in all three places."""
    key = f"catalog/{lineage}/{version_name(version)}.json"
    found = {place.read(PRECIOUS, key) for place in copies.places}
    assert len(found) == 1
    return CommitRecord.model_validate_json(found.pop())


def latest_of(copies: Copies, lineage: str) -> set[int | None]:
    """Version that `latest` names, in each place."""
    found = [
        place.read_newest(PRECIOUS, f"catalog/{lineage}/latest.json") for place in copies.places
    ]
    return {json.loads(each[0])["version"] if each else None for each in found}


def check_sums(folder: Path) -> None:
    check = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder)
    assert check.returncode == 0


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


async def test_killed_at_any_moment_it_converges_to_one_commit(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await Forge(stack, lineage).begin()
    rng = random.Random(20)
    copies = vault.copies()
    files = commits = cut_off = 0
    for _ in range(8):
        await forge.train()
        vault.start()
        goal = files + rng.randint(1, FILES)
        wait_until(lambda goal=goal: count(copies, f"lineages/{lineage}/") >= goal, 60, "files")  # type: ignore[misc]
        await asyncio.sleep(rng.uniform(0.0, 0.1))  # a seeded moment after that file
        vault.kill()
        files, commits = (
            count(copies, f"lineages/{lineage}/"),
            count(copies, f"catalog/{lineage}/v"),
        )
        cut_off += files != commits * FILES
    assert cut_off > 0, "no kill fell into a publish: the moments must be chosen anew"
    vault.start()
    for number in range(1, 9):
        vault.until_state(lineage, number, "published")
        commit = commit_of(copies, lineage, number)
        for place in copies.places:
            for file in commit.files:
                assert place.read_hash(PRECIOUS, commit.prefix + file.path)[0] == file.sha256
        for store in (copies.store, copies.backup):
            records = list(store.versions(PRECIOUS, f"catalog/{lineage}/v00{number}.json"))
            assert len(records) == 1
    await wait_latest(copies, lineage, 8)


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
        await forge.train()
        wait_until(lambda: vault.metric("duramen_vault_pending_versions") == 1, 60, "pending")
        assert not list(copies.store.keys(PRECIOUS, "catalog/main/v002"))
        async with forge.bus("ctl") as bus:

            async def waiting() -> str | None:
                entry = await bus.last("OBS", "ctl.observed.vault")
                text = json.loads(entry.data).get("waiting") if entry else None
                return text if text and "v002" in text else None

            assert "backup" in await until(waiting, 30, "the vault says what it waits for")
        own_stack.start("backup")
        vault.until_state("main", 2, "published")
        assert vault.alive()
        assert vault.metric('duramen_vault_alarms_total{what="not_published"}') == 1
    finally:
        vault.kill()


async def test_a_lagging_publish_does_not_undo_a_rollback(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    vault.start()
    vault.until_state(lineage, 1, "published")
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
    segment, _ = await forge.open(job)
    vault.start()
    vault.until_state(lineage, 1, "published")
    refused = await forge.answer(await forge.ask(command="rollback", lineage=lineage, version=1))
    assert refused["outcome"] == "void"
    assert segment in refused["why"]
    missing = await forge.answer(await forge.ask(command="rollback", lineage=lineage, version=9))
    assert missing["outcome"] == "void"
    forced = await forge.answer(
        await forge.ask(command="rollback", lineage=lineage, version=1, force=True)
    )
    assert forced["outcome"] == "done", forced
    async with forge.bus("trainer") as bus:
        await forge.table.update(bus)
    assert forge.table.lines[lineage].open_segment is None


async def test_a_damaged_archive_file_is_named_by_verify(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    vault.start()
    vault.until_state(lineage, 1, "published")
    path = stack.home.archive / f"lineages/{lineage}/v001/adapter/adapter_model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    value = vault.ask(f"/api/versions/{lineage}/1/verify", "POST")
    bad = {copy["place"]: copy["problems"] for copy in value["copies"] if not copy["ok"]}
    assert list(bad) == ["archive"]
    assert "adapter_model.safetensors" in bad["archive"][0]
    row = vault.version(lineage, 1)
    assert row is not None
    assert row["copies"] == 2


async def test_an_overwritten_key_is_alarmed_and_restore_gives_the_truth(
    stack: Stack, lineage: str, vault: VaultProcess, tmp_path: Path
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    vault.start()
    vault.until_state(lineage, 1, "published")
    prefix = f"lineages/{lineage}/v001/"
    admin = stack.minio("admin")
    for name in ("adapter/adapter_model.safetensors", "SHA256SUMS"):
        source = tmp_path / "forged"
        source.write_bytes(b"forged")
        admin.fput_object("duramen", prefix + name, str(source))
    admin.remove_object("duramen", prefix + "README.md")
    copies = vault.copies()

    def alarmed() -> bool:
        found = {
            alarm["about"] for alarm in vault.ask("/api/alarms") if alarm["what"] == "shadowed"
        }
        return len([about for about in found if lineage in about]) == 3

    wait_until(alarmed, 30, "three alarms")
    assert vault.metric('duramen_vault_alarms_total{what="shadowed"}') >= 3
    target = tmp_path / "v001"
    value = Restore([copies.store, copies.backup], quiet=True).run(
        lineage, "v001", target, with_base=False
    )
    check_sums(target)
    assert value["fallbacks"] == []


async def test_a_version_brings_the_chat_template_of_its_lineage(
    stack: Stack, lineage: str, vault: VaultProcess, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    base = make_tiny(tmp_path / "base")
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    # Older models keep their own template here as well.
    config = {**json.loads(files["tokenizer_config.json"]), "chat_template": "another"}
    files["tokenizer_config.json"] = json.dumps(config).encode()
    forge = await Forge(stack, lineage).begin(files, chat_template("alpaca"))
    await forge.train()
    vault.start()
    vault.until_state(lineage, 1, "published")
    copies, target = vault.copies(), tmp_path / "v001"
    Restore([copies.store, copies.backup], quiet=True).run(lineage, "v001", target, with_base=False)
    check_sums(target)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(target / "tokenizer"))
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Red?"}], tokenize=False, add_generation_prompt=True
    )
    assert said == "### Instruction:\nRed?\n\n### Response:\n"
    assert 'from_pretrained("v001/tokenizer")' in (target / "README.md").read_text()


async def test_restore_falls_back_to_the_backup_where_the_store_lost_it(
    stack: Stack, lineage: str, vault: VaultProcess, tmp_path: Path
) -> None:
    forge = await Forge(stack, lineage).begin()
    await forge.train()
    vault.start()
    vault.until_state(lineage, 1, "published")
    admin = stack.minio("admin")
    key = f"lineages/{lineage}/v001/adapter/adapter_model.safetensors"
    found = admin.stat_object("duramen", key)
    admin.remove_object("duramen", key, version_id=found.version_id)
    copies = vault.copies()
    value = Restore([copies.store, copies.backup], quiet=True).run(
        lineage, "v001", tmp_path / "to", with_base=False
    )
    check_sums(tmp_path / "to")
    assert any("backup" in text for text in value["fallbacks"])


async def test_a_base_with_a_pickle_or_a_cut_file_is_refused(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = Forge(stack, lineage)
    vault.start()
    for extra, word in (
        ({"weights_bin": b"pickle"}, "refused"),
        ({"more_safetensors": save({"w": np.ones(100, np.float32)})[:-4]}, "cut off"),
    ):
        root = forge.stage_base(**extra)
        answer = await forge.answer(await forge.ask(command="base", base_root=root))
        assert answer["outcome"] == "void"
        assert word in answer["why"]
        assert not list(vault.copies().store.keys(PRECIOUS, f"bases/{root}/SHA256SUMS"))


async def test_an_emptied_archive_is_refused_and_a_new_one_is_filled(own_stack: Stack) -> None:
    forge = await Forge(own_stack, "main").begin()
    vault = VaultProcess(own_stack)
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


async def test_the_commands_list_show_verify_and_restore(
    stack: Stack,
    lineage: str,
    vault: VaultProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in stack.env("ctl").items():
        monkeypatch.setenv(name, value)
    vault.start()
    model = make_tiny(tmp_path / "model")
    added = await duramen("base", "add", str(model), "--json")
    root = added["base_root"]
    assert added["copies"] == 3
    assert root in [row["base_root"] for row in await duramen("base", "list", "--json")]
    await duramen("lineage", "new", lineage, "--base", root[:12], "--rank", "8", "--json")
    forge = Forge(stack, lineage, root)
    await forge.train()
    await forge.train()
    vault.until_state(lineage, 2, "published")
    rows = await duramen("versions", "list", "-l", lineage, "--json")
    assert [row["name"] for row in rows] == ["v001", "v002"]
    assert (await duramen("versions", "verify", "v002", "-l", lineage, "--json"))["ok"]
    shown = await duramen("versions", "show", "2", "-l", lineage, "--json")
    assert shown["commit"]["base_root"] == root
    target = tmp_path / "restored"
    restore = ["restore", "v002", "-l", lineage, "--to", str(target), "--with-base"]
    await duramen(*restore, "--json")
    check_sums(target)
    check_sums(target / "base")
    with pytest.raises(TargetNotEmpty):
        await duramen(*restore, "--json")
    with pytest.raises(UsageError, match="rollback"):
        await duramen("restore", "v002")
    answer = await duramen("rollback", "v001", "-l", lineage, "--json")
    assert answer["receipt"]["version"] == 1
    assert latest_of(vault.copies(), lineage) == {1}


async def duramen(*arguments: str) -> Any:
    """Run one command as the command line does, in a thread of its own; its JSON."""
    app = typer.Typer()
    app.add_typer(versions.app, name="versions")
    app.add_typer(base.app, name="base")
    app.add_typer(base.lineage_app, name="lineage")
    for name, command in versions.COMMANDS.items():
        app.command(name)(command)
    result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)
