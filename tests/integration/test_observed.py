"""Several instances of a service on one bus: each is seen, and a receipt for all waits for all."""

import asyncio
import json
from datetime import timedelta

from services.ctl.commands.control import living, receipts
from shared.bus.client import Bus
from shared.ledger.control import answered_through, observed_all
from shared.ledger.jobs import Table
from shared.protocol.names import now
from shared.protocol.observed import Lease, Observed
from shared.service.observer import Observer
from tests.command_line import duramen
from tests.services import House
from tests.stack import Stack


def said(instance: str, **fields: object) -> Observed:
    return Observed.model_validate(
        {"service": "trainer", "instance": instance, "state": "idle", **fields}
    )


async def live(bus: Bus, *names: str) -> None:
    for name in names:
        await bus.lease(f"trainer.{name}", Lease(owner=name, host="h"), 0)


async def test_a_trainer_whose_clock_is_wrong_lives_all_the_same(own_stack: Stack) -> None:
    house = House(own_stack)
    async with house.bus("trainer") as trainer, house.bus("ctl") as bus:
        for name, hours in (("behind", -3), ("ahead", 3)):
            at = now() + timedelta(hours=hours)
            await trainer.lease(f"trainer.{name}", Lease(owner=name, host="h", at=at), 0)
        views = {name: said(name) for name in ("behind", "ahead", "gone")}
        assert (await living(bus, views)).keys() == {"behind", "ahead"}


async def test_an_observation_of_an_unknown_shape_is_shown_and_acted_on_by_nobody(
    own_stack: Stack,
) -> None:
    later = json.dumps({"schema": 3, "service": "trainer", "instance": "new", "mood": "[good]"})
    house = House(own_stack)
    async with house.bus("trainer") as trainer, house.bus("ctl") as bus:
        await trainer.observe(said("old"))
        client = await own_stack.connect("trainer")
        await client.jetstream().publish("ctl.observed.trainer.new", later.encode())
        await client.close()
        assert (await observed_all(bus, "trainer")).keys() == {"old"}
        shown = duramen(own_stack, "status")
        assert f"trainer    unknown    new says {later}" in shown.stdout
        assert "idle" in shown.stdout
        told = json.loads(duramen(own_stack, "status", "--json").stdout)
        assert told["unknown"] == {"trainer": {"new": later}}
        assert told["instances"]["trainer"].keys() == {"old"}


async def test_a_receipt_waits_for_every_trainer_that_lives(own_stack: Stack) -> None:
    house, table = House(own_stack), Table()
    async with house.bus("trainer") as trainer, house.bus("ctl") as bus:
        await live(trainer, "one", "two")
        for name in ("one", "two", "gone"):
            await trainer.observe(said(name))
        await trainer.observe(said("one", state="paused", generation=1))
        assert await receipts(bus, table, "paused", 1) is None
        await trainer.observe(said("two", state="paused", generation=1))
        found = await receipts(bus, table, "paused", 1)
        assert found is not None
        assert found.keys() == {"one", "two"}
        shown = duramen(own_stack, "status").stdout
        for name in ("one:", "two:", "gone:"):
            assert name in shown
        told = json.loads(duramen(own_stack, "status", "--json").stdout)
        assert told["instances"]["trainer"].keys() == {"one", "two", "gone"}
        assert told["services"]["trainer"]["instance"] == "two"
        assert told["services"]["vault"] is None


async def test_what_was_said_before_there_were_instances_counts_until_one_speaks(
    own_stack: Stack,
) -> None:
    """A command that was answered long ago is not carried out again by a program of today."""
    old = b'{"schema":1,"service":"vault","instance":"vault@h.net#1","state":"waiting",'
    old += b'"generation":0,"once_through":8,"waiting":"the backup is away",'
    old += b'"at":"2026-03-01T12:30:15Z"}'
    async with House(own_stack).bus("vault") as bus:
        admin = await own_stack.connect("admin")
        await admin.jetstream().publish("ctl.observed.vault", old)
        await admin.close()
        assert await answered_through(bus, "vault", "vault") == 8
        (seen,) = (await observed_all(bus, "vault")).values()
        assert seen.waits_for == "the backup is away"
        new = Observed(service="vault", instance="vault", state="idle", once_through=9)
        await bus.observe(new)
        assert await observed_all(bus, "vault") == {"vault": new}
        assert await answered_through(bus, "vault", "vault") == 9
        assert await answered_through(bus, "vault", "another") == 9


async def test_an_instance_whose_form_is_not_known_is_acted_on_by_nobody(own_stack: Stack) -> None:
    async with House(own_stack).bus("vault") as bus:
        await bus.observe(Observed(service="vault", instance="vault", state="idle"))
        other = await own_stack.connect("vault")
        await other.jetstream().publish("ctl.observed.vault.vault", b'{"schema":3}')
        await other.close()
        assert await asyncio.wait_for(observed_all(bus, "vault"), 20) == {}


async def test_a_service_says_at_once_what_changed_and_the_rest_when_it_is_time(
    own_stack: Stack,
) -> None:
    async with House(own_stack).bus("trainer") as bus:

        async def messages() -> int:
            return (await bus.bounds("OBS"))[1]

        observer = Observer(bus, 3600, quiet=["ledger"], slow=["progress"])
        at = await messages()
        moved = said("one", ledger=1)
        for view, is_news in (
            (said("one"), True),
            (said("one"), False),
            (moved, False),
            (said("one", state="paused"), True),
        ):
            await observer.show(view)
            at += is_news
            assert await messages() == at
        await observer.show(said("one", state="paused"), always=True)
        assert await messages() == at + 1
        hasty = Observer(bus, 0.0)
        await hasty.show(moved)
        await hasty.show(moved)
        assert await messages() == at + 3
