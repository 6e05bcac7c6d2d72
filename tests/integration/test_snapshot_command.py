"""A snapshot asked for by hand: taken at the current step, waited for, shown, and compared."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.command_line import duramen, evolution_service
from tests.services import House, until
from tests.stack import Stack
from tests.tiny import tiny_conversations

LONG: dict[str, Any] = {"batch_tokens": 64, "epochs": 60}


async def test_a_snapshot_is_taken_now_and_its_summary_is_shown(
    own_stack: Stack, tmp_path: Path
) -> None:
    house = House(own_stack)
    refused = await asyncio.to_thread(duramen, own_stack, "snapshot")
    assert refused.returncode == 2
    assert "No job is being trained" in refused.stderr
    await house.create("main", house.add_base())
    job = await house.submit("main", tiny_conversations(20), **LONG)
    # Without time for others, the one that is asked for is full all the same.
    short = {"DURAMEN_SNAPSHOT_FRACTION": "0", "DURAMEN_SNAPSHOT_ALLOWANCE_SECONDS": "0"}
    with house.service("trainer", **short), evolution_service(own_stack, tmp_path) as service:
        await house.until_step(2)
        shown = await asyncio.to_thread(duramen, own_stack, "snapshot", columns=80)
        assert shown.returncode == 0, shown.stderr
        assert "20 examples measured, 20 asked" in shown.stdout
        assert max(len(line) for line in shown.stdout.splitlines()[2:]) <= 80
        plain = await asyncio.to_thread(duramen, own_stack, "snapshot", "--json")
        taken = json.loads(plain.stdout)
        assert taken["position"] >= 2
        assert taken["decision"]["why"] == "asked for"
        assert taken["summary"]["trained"]["answered"] == 20

        step = taken["global_step"]
        reference = {"a": f"{job.sha256[:12]}@first", "b": f"{job.sha256[:12]}@{step}"}

        async def compared() -> bool:
            reply = service.get("/api/evolution/compare", **reference)
            return reply.status_code == 200 and len(reply.json()["examples"]) == 16

        await until(compared, "both snapshots are read")
        examples = service.ask("compare", **reference)["examples"]
        assert all(e["b"]["answer"] is not None for e in examples)
