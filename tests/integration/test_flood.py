"""Whoever holds a service's key can flood the streams: it is said, bounded, and repaired."""

import json
from pathlib import Path

from infra.servers.bootstrap import provision_bus
from infra.servers.streams import MAX_CONSUMERS, STREAMS
from services.vault.alarms import FILLING_KIND, StreamWatch, vault_alarms
from shared.bus.client import Bus
from shared.errors import BusFull, Conflict
from shared.ledger.control import Control
from shared.ledger.invalid import MOST_TOLD, VoidTeller
from shared.protocol.names import DesiredState
from tests.services import until
from tests.stack import Stack

SMALL = 64 * 1024  # bytes


async def flood_control(stack: Stack, count: int) -> None:
    """Have the server answer a reader of EVT into a subject that the reader may not publish."""
    evil = await stack.connect("evolution")
    config = {"name": "x", "ack_policy": "none", "mem_storage": True}
    body = {"stream_name": "EVT", "config": config, "action": "create"}
    await evil.request("$JS.API.CONSUMER.CREATE.EVT.x", json.dumps(body).encode())
    ask = json.dumps({"batch": 1, "no_wait": True}).encode()
    for _ in range(count):
        await evil.publish("$JS.API.CONSUMER.MSG.NEXT.EVT.x", ask, reply="ctl.desired.trainer")
    await evil.flush()
    await evil.request("$JS.API.STREAM.INFO.EVT", b"")  # behind all of them
    await evil.close()


async def asked(bus: Bus, control: Control, state: DesiredState, why: str = "") -> bool:
    """Ask for a state; return False if another message came in between."""
    await control.update(bus)
    try:
        await control.set_desired(bus, state, "test", why)
    except Conflict:
        return False
    return True


async def is_full(bus: Bus, control: Control) -> bool:
    """Return whether a command is refused because the stream is full."""
    try:
        await asked(bus, control, "paused", "x" * 400)
    except BusFull:
        return True
    return False


async def test_a_flooded_stream_is_said_and_works_again_after_the_next_start(
    own_stack: Stack, tmp_path: Path
) -> None:
    admin = await own_stack.connect("admin")
    js = admin.jetstream()
    kept = (await js.stream_info("CTL")).config
    await js.update_stream(kept.evolve(max_bytes=SMALL))
    async with (
        Bus(own_stack.nats_url, own_stack.seed_file("ctl"), "ctl") as ctl,
        Bus(own_stack.nats_url, own_stack.seed_file("vault"), "vault") as vault,
    ):
        watch = StreamWatch(vault, vault_alarms(vault))
        await watch.once()
        assert not watch.alarms.standing
        control = Control("trainer")
        await until(lambda: asked(ctl, control, "paused"), "a command is taken")
        while (await js.stream_info("CTL")).state.bytes < 0.95 * SMALL:
            await flood_control(own_stack, 200)
        await watch.once()
        assert "full" in watch.alarms.standing[FILLING_KIND, "CTL"]
        await until(lambda: is_full(ctl, control), "no command is taken")
        assert control.state == "paused"

        # The repair: a larger stream, and a start.
        await provision_bus(own_stack.nats_url, own_stack.secrets)
        assert (await js.stream_info("CTL")).config.max_bytes == STREAMS["CTL"]["max_bytes"]
        await watch.once()
        assert not watch.alarms.standing
        after = Control("trainer")
        await after.update(ctl)
        assert after.generation == control.generation
        await until(lambda: asked(ctl, after, "running"), "a command is taken again")
        await after.update(ctl)
        assert after.state == "running"
        assert len(after.voids) > MOST_TOLD

        # People are told of some, and of how many more.
        teller = VoidTeller(vault, "vault", "CTL", tmp_path / "told")
        await teller.tell(after.voids)
        told = [json.loads(e.data)["data"] async for e in vault.read("EVT", 0, "evt.vault.alarm")]
        voids = [alarm for alarm in told if alarm["what"] == "void_record"]
        assert len(voids) == MOST_TOLD + 1
        assert f"{len(after.voids) - MOST_TOLD} more since" in voids[-1]["detail"]
    await admin.close()


async def test_consumers_are_bounded_and_those_left_over_go_at_the_next_start(
    own_stack: Stack,
) -> None:
    evil = await own_stack.connect("evolution")

    async def made(number: int) -> bool:
        config = {"durable_name": f"d{number}", "name": f"d{number}", "ack_policy": "none"}
        body = {"stream_name": "OBS", "config": config, "action": "create"}
        reply = await evil.request(
            f"$JS.API.CONSUMER.CREATE.OBS.d{number}", json.dumps(body).encode()
        )
        return "error" not in json.loads(reply.data)

    assert [await made(n) for n in range(MAX_CONSUMERS + 2)].count(True) <= MAX_CONSUMERS
    await provision_bus(own_stack.nats_url, own_stack.secrets)
    assert await made(0)
    await evil.close()
