"""The room on the trainer's disk: what is reserved before a job, and when a full disk is tried."""

import errno
import os
from pathlib import Path

import pytest

from services.trainer.supervisor import decide, next_job
from services.trainer.supervisor.disk import FREED_BYTES, Disk
from services.trainer.supervisor.observe import view_of
from services.trainer.supervisor.trainer import Trainer
from shared.protocol.observed import DiskSeen, Observed

GIB = 1 << 30


@pytest.mark.parametrize(
    ("parts", "free", "said"),
    [
        ({"the base": 0, "checkpoints": 0}, GIB, None),
        ({"the base": 2 * GIB, "checkpoints": GIB}, 4 * GIB, None),
        (
            {"the base": 2 * GIB, "checkpoints": GIB},
            4 * GIB - 1,
            (
                "disk: 4.0 GiB needed in {} (the base 2.0 GiB, checkpoints 1.0 GiB, "
                "1.0 GiB stay free), 4.0 GiB free: duramen disk"
            ),
        ),
        (
            {"the base": 0, "checkpoints": 0},
            5 << 20,
            "disk: 1.0 GiB needed in {} (1.0 GiB stay free), 5 MiB free: duramen disk",
        ),
    ],
)
def test_a_job_begins_only_where_all_that_it_writes_has_room(
    tmp_path: Path, parts: dict[str, int], free: int, said: str | None
) -> None:
    found = Disk(tmp_path, GIB).shortage(parts, free)
    assert found == (said.format(tmp_path) if said else None)


def test_a_disk_that_was_full_is_tried_again_once_more_is_free_or_after_a_while(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path, 0)
    disk.failed("No space left on device (plan.py, line 164)")
    disk._free_then = GIB
    assert disk.sentence == disk.shortage({}, GIB)
    assert "(No space left on device (plan.py, line 164))" in disk.sentence
    assert disk.shortage({}, GIB + FREED_BYTES) is None
    disk.tries()
    assert "line 164" not in str(disk.shortage({}, GIB))
    disk.wrote()
    assert disk.shortage({}, GIB) is None


async def test_a_supervisor_whose_own_disk_is_full_waits_and_says_so(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.settings.state_dir.mkdir(parents=True, exist_ok=True)
    found = errno.ENOSPC

    async def writes(_: Trainer) -> bool:
        raise OSError(found, os.strerror(found))

    monkeypatch.setattr(decide, "decide_next", writes)
    assert not await decide.step(trainer)
    assert "No space left on device" in view_of(trainer).waiting["*"]
    found = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        await decide.step(trainer)


@pytest.mark.parametrize(
    ("free", "limit", "said"),
    [
        (3 * GIB, None, None),
        (None, None, None),  # nobody can say: it is not called short
        (3 * GIB, 4 * GIB, None),
        (3 * GIB - 1, None, "the store's disk: 3.0 GiB needed (checkpoints 2.0 GiB, 1.0 GiB stay"),
        (9 * GIB, 4 * GIB - 1, "`work` holds 2.0 GiB and 2.0 GiB are needed, but DURAMEN_"),
    ],
)
async def test_a_job_waits_where_its_checkpoints_do_not_fit_into_the_store(
    trainer: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    free: int | None,
    limit: int | None,
    said: str | None,
) -> None:
    uses = {"work/checkpoints": GIB, "work/results": GIB, "bases": 9 * GIB}
    disk = DiskSeen(place="store", free=free, reserve=GIB, uses=uses)
    view = Observed(service="vault", instance="vault", state="idle", disks=[disk])

    async def seen(*_: object) -> Observed:
        return view

    monkeypatch.setattr(next_job, "observed", seen)
    trainer.settings = trainer.settings.model_copy(update={"work_limit_bytes": limit})
    found = await next_job.short_in_store(trainer, 2 * GIB)
    assert found is None if said is None else said in (found or "")
    view = view.model_copy(update={"disks": None})
    assert await next_job.short_in_store(trainer, 2 * GIB) is None
