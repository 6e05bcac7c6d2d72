"""What is restored is what was published, whatever became of a copy; the commands say so."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.ctl.__main__ import app
from services.ctl.chat_templates import chat_template
from services.ctl.commands.restore import Restore
from services.ctl.errors import TargetNotEmpty
from services.ctl.views.stored_bases import model_name
from shared.errors import NotFound, UsageError
from shared.store import layout
from shared.store.place import PRECIOUS
from shared.store.s3 import Store
from tests.stack import Stack, wait_until
from tests.tiny import make_tiny
from tests.vault_history import Forge, VaultProcess, check_sums, first_version, latest_of

ROOT = "ab" * 32


@pytest.fixture
def stack(own_stack: Stack) -> Stack:
    """Servers of one test: a vault looks at every lineage that there is."""
    return own_stack


async def test_a_damaged_archive_file_is_named_by_verify(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    await first_version(stack, lineage, vault)
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
    vault.sweep_seconds = 1
    await first_version(stack, lineage, vault)
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
    await first_version(stack, lineage, vault)
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


async def test_the_record_of_another_version_is_not_used(
    stack: Stack, lineage: str, vault: VaultProcess, tmp_path: Path
) -> None:
    await first_version(stack, lineage, vault)
    copies = vault.copies()
    record = copies.store.read(PRECIOUS, layout.commit(lineage, 1))
    for server in ("store", "backup"):
        key = layout.commit(lineage, 2)
        stack.minio("admin", server).put_object(PRECIOUS, key, io.BytesIO(record), len(record))
    restore = Restore([copies.store, copies.backup], quiet=True)
    with pytest.raises(NotFound, match=f"v002 of {lineage} is not published"):
        restore.run(lineage, "v002", tmp_path / "to", with_base=False)
    told = [text for text in restore.fallbacks if f"is a record of {lineage} v001" in text]
    assert len(told) == 2
    assert not (tmp_path / "to").exists()


def test_a_base_whose_config_is_not_an_object_is_listed(stack: Stack) -> None:
    key, keys = layout.base_file(ROOT, "config.json"), stack.keys("vault")
    store = Store("store", stack.store_url, keys.access, keys.secret)
    for config in (b"[]", b"null", b"7", b"{", b"[" * 200_000):
        stack.minio("admin").put_object(PRECIOUS, key, io.BytesIO(config), len(config))
        assert model_name(store, ROOT, None) == "?", config[:9]


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
    shown = await duramen("lineage", "show", lineage, "--json")
    assert (shown["base_root"], shown["lora"]["rank"]) == (root, 8)
    assert (shown["versions"], shown["latest"]) == ([1, 2], 2)
    assert shown["checkpoint"]
    assert shown["base_check"]["tried"] is False
    assert (await duramen("versions", "verify", "v002", "-l", lineage, "--json"))["ok"]
    newest = await duramen("versions", "verify", "-l", lineage, "--json")
    assert (newest["version"], newest["ok"]) == (2, True)
    with pytest.raises(NotFound, match="no published version"):
        await duramen("versions", "show", "-l", f"{lineage}-none", "--json")
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
    # Without a version it is the one that users load.
    latest = await duramen("restore", "-l", lineage, "--to", str(tmp_path / "latest"), "--json")
    assert latest["version"] == "v001"
    with pytest.raises(NotFound, match="no published version"):
        await duramen("restore", "-l", f"{lineage}-none", "--to", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


async def duramen(*arguments: str) -> Any:
    """Run one command as the command line does, in a thread of its own; its JSON."""
    result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)
