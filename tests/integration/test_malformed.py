"""What the vault reads is written by others: malformed, it is named, and all else goes on."""

import io
import json
from typing import Any

import httpx
import pytest

from shared.bus.client import Bus
from shared.formats.canonical import canonical_json
from shared.ledger.control import observed
from shared.protocol.names import observed_subject
from shared.protocol.observed import Observed
from shared.store.place import PRECIOUS
from tests.services import until
from tests.stack import Stack, wait_until
from tests.vault_history import Forge, VaultProcess, first_version, latest_of

NESTED = b"[" * 200_000 + b"]" * 200_000


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def wide(shape: list[int]) -> bytes:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    return safetensors(json.dumps({"w": entry}).encode())


HOSTILE = {
    "a header that is a list": {"more.safetensors": safetensors(b"[]")},
    "a header that is nested": {"more.safetensors": safetensors(NESTED)},
    "a header that is no text": {"more.safetensors": safetensors(b"\xff" * 9)},
    "a shape that takes hours": {"more.safetensors": wide([10**4000] * 100)},
    "a shape of words": {"more.safetensors": safetensors(b'{"w":{"data_offsets":[0,0],'
                                                         b'"shape":["a"],"dtype":"F32"}}')},
    "a configuration that is a list": {"config.json": b"[]"},
    "a configuration that is nested": {"config.json": NESTED},
    "a configuration without a kind": {"config.json": b'{"model_type":{}}'},
    "an index that is a list": {"model.safetensors.index.json": b"[]"},
    "an index that is nested": {"model.safetensors.index.json": NESTED},
    "an index of numbers": {"model.safetensors.index.json": b'{"weight_map":{"a":1,"b":"c"}}'},
}  # fmt: skip


@pytest.fixture
def stack(own_stack: Stack) -> Stack:
    """Servers of one test: a vault looks at every lineage that there is."""
    return own_stack


async def test_a_hostile_model_folder_is_refused_and_the_vault_lives(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = Forge(stack, lineage)
    vault.start()
    good = {"model.safetensors": safetensors(b"{}"), "tokenizer.json": b"{}"}
    good["config.json"] = b'{"model_type":"llama"}'
    for what, files in HOSTILE.items():
        root = forge.stage({**good, **files, "note.txt": lineage.encode()})
        answer = await forge.answer(await forge.ask(command="base", base_root=root))
        assert answer["outcome"] == "void", what
        assert next(iter(files)) in answer["why"], what
        assert vault.alive(), what
        assert not list(vault.copies().store.keys(PRECIOUS, f"bases/{root}/SHA256SUMS"))
    answer = await forge.answer(await forge.ask(command="base", base_root=forge.stage(good)))
    assert answer["outcome"] == "done"


async def spoil_result(forge: Forge, contents: bytes) -> None:
    """Train a job whose close names these bytes as its result.json."""
    whole = Forge.result

    def spoilt(self: Forge, *args: Any) -> Any:
        whole(self, *args)
        return self.put("trainer", "work", f"results/{forge.lineage}/{{}}.json", contents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forge, "result", spoilt)
        await forge.train()


def alarms(vault: VaultProcess, about: str) -> list[str]:
    assert vault.alive(), vault.log.read_text()[-3000:]
    try:
        return [a["detail"] for a in vault.ask("/api/alarms") if about in a["about"]]
    except httpx.TransportError:
        return []


RESULTS = (
    *(b"[]", b"null", b"{", b"\xff", NESTED, b'{"schema":1,"files":7}', b'{"schema":1}'),
    *(b'{"schema":1,"files":[[]]}', b'{"schema":1,"files":[{"path":1}]}'),
)


async def test_a_malformed_record_is_named_once_and_the_next_version_is_published(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    """Results and commit records, as the trainer or a stranger may leave them."""
    bad = await Forge(stack, f"{lineage}-bad").begin()
    for contents in RESULTS:
        await spoil_result(bad, contents)
    commits = (b"", b"[]", b"\xff", NESTED, canonical_json({"version": "v"}))
    for contents in commits:
        await bad.train()
        name = f"catalog/{lineage}-bad/v{len(bad.table.lines[bad.lineage].versions):03d}.json"
        vault.copies().backup.put_bytes(PRECIOUS, name, contents)
    good = await Forge(stack, lineage).begin()
    await good.train()
    vault.start()
    vault.until_state(lineage, 1, "published")
    count = len(RESULTS) + len(commits)
    wait_until(lambda: len(alarms(vault, bad.lineage)) == count, 60, "an alarm for each")
    assert all(alarms(vault, bad.lineage))
    vault.await_round()
    log = vault.log.read_text()
    for number in range(1, count + 1):
        assert log.count(f'"about": "{bad.lineage}/v{number:03d}"') == 1, "said once"
    assert not alarms(vault, f"{lineage}/")


async def test_pointer_notes_and_what_it_said_of_itself_may_be_garbage(
    own_stack: Stack,
) -> None:
    """A restart neither dies of them nor takes what was answered again."""
    vault = VaultProcess(own_stack)
    try:
        forge = await first_version(own_stack, "main", vault)
        copies = vault.copies()
        wait_until(lambda: latest_of(copies, "main") == {1}, 30, "latest")
        nonce = await forge.ask(command="rollback", lineage="main", version=2)
        assert (await forge.answer(nonce))["outcome"] == "void"
        vault.kill()
        await forge.train()  # v002 is there now: a command that is taken again would be done
        (own_stack.home.state("vault") / "voids-told").write_bytes(b"\xff")
        key = "catalog/main/latest.json"
        for server in ("store", "backup"):
            client = own_stack.minio("vault", server)
            client.put_object("duramen", key, io.BytesIO(b"[]"), 2)
        connection = await own_stack.connect("vault")
        await connection.jetstream().publish(observed_subject("vault", "vault"), b"\xff[")
        await connection.close()
        vault.start()
        vault.until_state("main", 2, "published")
        wait_until(lambda: latest_of(copies, "main") == {2}, 30, "latest")

        async with Bus(own_stack.nats_url, own_stack.seed_file("ctl"), "ctl") as bus:

            async def said() -> Observed | None:
                return await observed(bus, "vault")

            seen = await until(said, "the vault tells again", 30)
            assert seen.once_through > 0
            await forge.table.update(bus)
            assert not forge.table.lines["main"].rollbacks
    finally:
        vault.kill()
