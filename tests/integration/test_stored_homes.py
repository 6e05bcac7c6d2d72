"""Homes that earlier code left behind, packed in tests/golden: today's code goes on with them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from tests.command_line import duramen
from tests.conftest import running_stack
from tests.golden.home import PACKED, SETTINGS, job_named, unpack, until_published
from tests.golden.result import PATH, stored_result
from tests.services import House, until
from tests.stack import Stack

SECONDS = 90.0
AWAY = 6  # exit status
# On another CPU or with other libraries sums are taken in another order: 3e-5 with the kernels of
# wider vectors. One step more or less moves weights by the learning rate, 5e-3.
TOLERANCE = 1e-3
EXPECTED: dict[str, Any] = json.loads((PACKED / "expected.json").read_bytes())


@pytest.fixture
def own_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Servers over the packed home that the test names."""
    with running_stack(lambda root: unpack(request.param, root), provision=True) as running:
        yield running


@pytest.fixture
def running(house: House) -> Iterator[House]:
    """The home with whatever the test starts as users do; it is killed at the end."""
    yield house
    for process in house.processes:
        process.kill()


@pytest.mark.parametrize("own_stack", ["home"], indirect=True)
async def test_a_stopped_job_of_earlier_code_ends_with_the_tensors_that_it_gave(
    running: House,
) -> None:
    for name in ("ingest", "trainer", "vault", "evolution"):
        running.fresh = name == "trainer"  # its sums depend on threads: a forked worker has one
        running.start(name, **SETTINGS)
    async with running.bus("ctl") as bus:
        table, stopped = await job_named(bus, "stopped.jsonl")
        _, queued = await job_named(bus, "queued.jsonl")
    line = table.lines["main"]
    assert (line.latest, table.voids, table.behind()) == (1, [], [])
    assert [job.id for job in table.queue()] == [stopped, queued]
    was_at = line.position(stopped)
    assert was_at > 0
    await is_sound(running)
    assert (await told(running, "start"))["state"] in ("running", "idle", "waiting")

    commit = await until_published(running, 2, SECONDS)
    manifest = read_json(running, "lineages/main/v002/MANIFEST.json")
    assert [s["outcome"] for s in manifest["segments"]] == ["done", "stopped", "done"]
    assert manifest["segments"][-1]["from_position"] == was_at
    assert commit["dataset_sha256"] == stopped.sha256
    is_the_same_adapter(running)


@pytest.mark.parametrize("own_stack", ["cut_off"], indirect=True)
async def test_a_version_cut_off_behind_its_readme_is_published_with_the_words_it_had(
    running: House,
) -> None:
    running.start("vault", **SETTINGS)
    commit = await until_published(running, 1, SECONDS)
    assert {file["path"]: file["sha256"] for file in commit["files"]} == EXPECTED["cut_off"]


def test_a_result_has_the_same_bytes(stack: Stack, tmp_path: Path) -> None:
    assert stored_result(House(stack).store("trainer"), tmp_path) == PATH.read_bytes()


def is_the_same_adapter(house: House) -> None:
    """To the bit where the machine is that of before; else to what rounding explains."""
    header = read_json(house, "lineages/main/v002/training/header.json")
    before = EXPECTED["home"]
    assert header["global_step"] == before["global_step"]
    if header["environment"] == before["environment"]:
        assert header["tensors"] == before["tensors"]
    key = "lineages/main/v002/adapter/adapter_model.safetensors"
    found, wanted = load(read(house, key)), load((PACKED / "v002.safetensors").read_bytes())
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=TOLERANCE, err_msg=name)


async def told(house: House, *words: str) -> Any:
    """What the command line says, as JSON; None while a service or a store does not answer yet."""
    done = await asyncio.to_thread(duramen, house.stack, *words, "--json")
    assert done.returncode in (0, AWAY), done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


async def is_sound(house: House) -> None:
    """`duramen check` finds nothing; `duramen status` reads what services said of themselves."""
    found = await until(lambda: told(house, "check"), "all can be checked", SECONDS)
    assert found["ok"], found
    assert (await told(house, "status"))["services"]["trainer"]["state"] == "stopped"


def read(house: House, key: str) -> bytes:
    return house.store("reader").read("duramen", key)


def read_json(house: House, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(house, key))
    return found
