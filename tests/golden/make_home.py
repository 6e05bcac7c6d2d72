"""Pack two small homes: `python -m tests.golden.make_home`. Run it at the commit README.md names.

`cut_off`: one job is done, and the vault was killed when it had stored the README.md of v001, in
words that no code uses otherwise, and had not committed it. `home`: v001 is published, a second job
was stopped in the middle, a third one is queued. `expected.json` has what the code of that commit
makes of both, beside the adapter that it ends with.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from shared.ledger.lineage import Line
from shared.protocol.records import LineageSettings, LineCreate, Lora
from tests.command_line import duramen
from tests.golden.home import (
    PACKED,
    SETTINGS,
    job_named,
    pack,
    unpack,
    until_published,
)
from tests.golden.result import PATH, stored_result
from tests.services import ROOT, House, until
from tests.stack import Stack
from tests.tiny import line_of, make_tiny, tiny_conversations

SECONDS = 120.0
ROWS = {"done.jsonl": (0, 24), "stopped.jsonl": (1000, 400), "queued.jsonl": (5000, 24)}
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
# The vault as it was, but for a sentence of README.md; and killed when it has stored that file.
OTHER_WORDS = """
import os, runpy, sys
from services.vault import copies, readme
readme.TEXT += "A sentence that other code would not write.\\n"
store = copies.Copies.copy_bytes
def copy_bytes(self, key, data):
    stored = store(self, key, data)
    if sys.argv[1:] == ["killed"] and key.endswith("README.md"):
        os._exit(9)
    return stored
copies.Copies.copy_bytes = copy_bytes
runpy.run_module("services.vault", run_name="__main__")
"""


def over(root: Path, work: Callable[[House], Coroutine[Any, Any, Any]]) -> Any:
    """Do `work` on servers over the folders of `root`; they end as a supervisor ends them."""
    stack = Stack(root)
    try:
        stack.up()
        house = House(stack)
        found = asyncio.run(work(house))
        for process in house.processes:
            process.end()
        for name in reversed(list(stack.servers)):
            stack.stop(name)
        return found
    finally:
        stack.down()


def drop(house: House, name: str) -> None:
    start, count = ROWS[name]
    data = b"".join(line_of(c) + b"\n" for c in tiny_conversations(count, start))
    part = house.stack.home.inbox / f".{name}.part"
    part.write_bytes(data)
    part.rename(house.stack.home.inbox / name)


async def until_state(house: House, name: str, state: str) -> None:
    async def look() -> bool:
        async with house.bus("ctl") as bus:
            try:
                table, job = await job_named(bus, name)
            except ValueError:
                return False
            return table.jobs[job].record.state == state

    await until(look, f"{name} is {state}", SECONDS)


async def first_job(house: House) -> None:
    """A base, a lineage, and a job that is done and not published."""
    with tempfile.TemporaryDirectory() as folder:
        root = house.add_base(make_tiny(Path(folder) / "base", **SHAPE))
    settings = LineageSettings(base_root=root, lora=Lora(rank=4, alpha=8), dtype="float32", seed=3)
    async with house.bus("ctl") as bus:
        create = LineCreate(by="made", lineage="main", settings=settings)
        await Line("main").append(bus, "create", create)
    house.start("ingest", **SETTINGS)
    house.start("trainer", **SETTINGS)
    drop(house, "done.jsonl")
    await until_state(house, "done.jsonl", "done")


def vault_of_other_words(house: House, *words: str) -> subprocess.Popen[bytes]:
    env = {"PATH": os.environ["PATH"], **house.stack.env("vault"), **SETTINGS}
    command = [sys.executable, "-c", OTHER_WORDS, *words]
    with house.stack.home.log("vault").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


async def cut_off(house: House) -> None:
    """The vault stores README.md and is killed."""
    vault = vault_of_other_words(house, "killed")
    assert await asyncio.to_thread(vault.wait, SECONDS) == 9


async def cut_off_to_the_end(house: House) -> dict[str, Any]:
    """What becomes of it where the code has the words of before."""
    vault = vault_of_other_words(house)
    try:
        commit = await until_published(house, 1, SECONDS)
    finally:
        vault.terminate()
        await asyncio.to_thread(vault.wait, SECONDS)
    return {file["path"]: file["sha256"] for file in commit["files"]}


async def second_and_third(house: House) -> None:
    """v001 is published; a job is stopped in the middle, another one waits behind it."""
    for name in ("ingest", "trainer", "vault"):
        house.start(name, **SETTINGS)
    await until_published(house, 1, SECONDS)
    drop(house, "stopped.jsonl")
    await house.until_step(40, SECONDS)
    stopped = duramen(house.stack, "stop", "--json")
    assert stopped.returncode == 0, stopped.stderr
    drop(house, "queued.jsonl")
    await until_state(house, "queued.jsonl", "queued")


async def to_the_end(house: House) -> dict[str, Any]:
    """What this code makes of the packed home."""
    for name in ("trainer", "vault"):
        house.start(name, **SETTINGS)
    started = duramen(house.stack, "start", "--json")
    assert started.returncode == 0, started.stderr
    await until_published(house, 2, SECONDS)
    store = house.store("reader")
    header = json.loads(store.read("duramen", "lineages/main/v002/training/header.json"))
    adapter = store.read("duramen", "lineages/main/v002/adapter/adapter_model.safetensors")
    (PACKED / "v002.safetensors").write_bytes(adapter)
    return {name: header[name] for name in ("tensors", "environment", "global_step")}


async def result(house: House) -> None:
    """result.json, for which a store is needed."""
    with tempfile.TemporaryDirectory() as folder:
        PATH.write_bytes(stored_result(house.store("trainer"), Path(folder)))


def main() -> int:
    if not PATH.exists():
        with tempfile.TemporaryDirectory(prefix="duramen-made-") as folder:
            over(Path(folder), result)
    if (PACKED / "expected.json").exists():
        return 0
    with tempfile.TemporaryDirectory(prefix="duramen-made-") as folder:
        root = Path(folder)
        over(root / "first", first_job)
        shutil.copytree(root / "first", root / "cut")
        over(root / "cut", cut_off)
        packed = [pack(root / "cut", "cut_off")]
        over(root / "first", second_and_third)
        packed.append(pack(root / "first", "home"))
        expected = {
            "cut_off": over(unpack("cut_off", root / "third"), cut_off_to_the_end),
            "home": over(unpack("home", root / "fourth"), to_the_end),
        }
    (PACKED / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    for path in packed:
        print(f"{path.name}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
