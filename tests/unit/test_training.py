"""The supervisor's side of a worker: what it is asked before the worker is there."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.trainer.local import SegmentFolder
from services.trainer.training import Training


@pytest.mark.parametrize("way", ["finish", "kill"])
async def test_a_worker_asked_to_leave_before_it_is_there_never_starts(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that comes while a base is still fetched holds, as one at any other time."""
    asked = threading.Event()
    monkeypatch.setattr(Training, "prepare", lambda self: asked.wait(30))
    folder = SegmentFolder(tmp_path)
    local = SimpleNamespace(segment=lambda lineage, segment: folder)
    job: Any = SimpleNamespace(id="0123456789ab.1")
    parts: Any = SimpleNamespace(lineage="main", id="100", fence=100)
    training = Training(
        settings=parts,
        bus=parts,
        local=cast("Any", local),
        line=parts,
        job=job,
        segment=parts,
        changed=lambda: None,
        on_plan=lambda *_: None,
    )
    run = asyncio.create_task(training.run())
    await asyncio.sleep(0)  # it prepares
    await training.ask("snapshot", 7)  # nobody there to hear it: asked again later
    await getattr(training, way)()
    asked.set()
    assert (await run).outcome == "interrupted"
    assert training.worker is None
    assert training.asked == 0
