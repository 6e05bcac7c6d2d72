"""A file that has grown, on real servers: what is new is trained, and nothing twice."""

from typing import Any

from shared.formats.plan import Plan
from shared.ledger.jobs import Table
from shared.protocol.names import JobId
from shared.protocol.records import LineRollback
from shared.store.place import PRECIOUS
from tests.services import House
from tests.tiny import tiny_conversations

QUICK: dict[str, Any] = {"batch_tokens": 8192, "epochs": 1}


class Trained:
    """Jobs of one lineage, one after the other, and what their plans say."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def plan(self, job: JobId) -> Plan:
        """The plan of a job, once it is done."""
        table = await self.house.until_state(job, "done")
        ref = table.jobs[job].record.plan
        assert ref is not None
        return Plan.from_bytes(self.house.store("trainer").read(PRECIOUS, ref.key))

    async def write(self, by: str, verb: Any, job: JobId) -> None:
        async with self.house.bus(by) as bus:
            table = await Table.of(bus)
            await table.write(bus, table.jobs[job], verb, "test")

    async def back_to(self, version: int) -> None:
        async with self.house.bus("vault") as bus:
            line = (await Table.of(bus)).lines["main"]
            target = line.versions[version]
            fields: dict[str, Any] = {"version": version, "target": target, "cause": "test"}
            fields |= {"prev": line.sequence, "head": line.heads[target]}
            await line.append(bus, "rollback", LineRollback(by="test", lineage="main", **fields))


async def test_a_file_that_has_grown_trains_what_is_new(house: House) -> None:
    await house.create("main", house.add_base())
    trained, rows = Trained(house), tiny_conversations(1020)
    with house.service("trainer"):
        first = await trained.plan(await house.submit("main", rows[:1000], **QUICK))
        assert (first.known, first.new_rows) == (None, 1000)
        grown = await trained.plan(await house.submit("main", rows, **QUICK))
        assert (grown.new_rows, grown.train_rows) == (20, tuple(range(1000, 1020)))
        assert grown.known is not None
        assert [j.version for j in grown.known.jobs] == [1]
        assert {p.row for p in grown.probes if p.split == "trained"} == set(grown.train_rows)

        # Nothing new: the job ends, and no version comes of it.
        known = await house.submit("main", rows[1005:1015], **QUICK)
        table = await house.until_state(known, "skipped")
        failure = table.jobs[known].record.failure
        assert failure is not None
        assert failure.message == "All its 10 rows have already been trained: see v002."
        assert failure.next_step == "duramen versions show v002 -l main"
        assert table.lines["main"].latest == 2

        # On another branch they are new, and the job that had nothing to train is tried again.
        await trained.back_to(1)
        await trained.write("ctl", "retry", known)
        assert (await trained.plan(known)).new_rows == 10
        everything = await house.submit("main", rows[990:], delta="off", **QUICK)
        plan = await trained.plan(everything)
        assert plan.known is None
        held_out = {left.row for left in plan.left_out}  # by an earlier file
        assert {*plan.train_rows, *held_out} == set(range(30))
        assert len(held_out) < 5
