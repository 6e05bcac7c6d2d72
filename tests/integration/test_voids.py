"""Who finds records that do not count says so once, whatever is started again."""

import json
from pathlib import Path

from shared.bus.client import Bus
from shared.ledger.invalid import VoidTeller
from shared.ledger.jobs import Table
from tests.stack import Stack


async def alarms(bus: Bus) -> list[int]:
    """Sequences that were told, in order."""
    found = [json.loads(e.data)["data"] async for e in bus.read("EVT", 0, "evt.vault.alarm")]
    assert {alarm["what"] for alarm in found} <= {"void_record"}
    return [int(alarm["sequence"]) for alarm in found]


async def test_a_forged_record_is_told_once_over_restarts(
    own_stack: Stack, lineage: str, tmp_path: Path
) -> None:
    forger = await own_stack.connect("trainer")
    file = tmp_path / "voids-told"

    async def forge() -> int:
        ack = await forger.jetstream().publish(f"jobs.line.{lineage}.close", b"{}")
        return int(ack.seq)

    async with Bus(own_stack.nats_url, own_stack.seed_file("vault"), "vault") as bus:
        first = await forge()
        for _ in range(2):  # as after a restart: all is folded anew
            teller = VoidTeller(bus, "vault", "JOBS", file)
            await teller.tell((await Table.of(bus)).voids)
            await teller.tell((await Table.of(bus)).voids)
            assert await alarms(bus) == [first]
        second = await forge()
        await VoidTeller(bus, "vault", "JOBS", file).tell((await Table.of(bus)).voids)
        assert await alarms(bus) == [first, second]
    await forger.close()
