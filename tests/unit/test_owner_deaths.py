"""Which deaths of its owners speak against a job: not those before a first step, up to a limit."""

import pytest

from services.trainer.supervisor.claim import START_TRIES, death_counts
from shared.ledger.lineage import Segment
from shared.protocol.names import JobId
from shared.protocol.records import CheckpointRef, LineOpen


def opened(step: int | None) -> LineOpen:
    """Return the record of an owner that begins at the checkpoint of a step, or at none."""
    checkpoint = None
    if step is not None:
        checkpoint = CheckpointRef(
            id=f"{step:064}",
            bucket="work",
            prefix=f"checkpoints/main/{'0' * 12}/{step:08}",
            segment="0" * 12,
            fence=1,
            position=step,
            global_step=step,
        )
    return LineOpen(
        by="test",
        prev=0,
        lineage="main",
        segment="0" * 12,
        job=JobId("main", "0" * 64, 1).path,
        job_sequence=1,
        checkpoint=checkpoint,
        position=step or 0,
        global_step=step or 0,
        micro_tokens=256,
        dtype="float32",
        lease="trainer.main",
        owner="one",
        host="host",
    )


def segment(*steps: int | None) -> Segment:
    opens = [(number, opened(step)) for number, step in enumerate(steps, 1)]
    return Segment("0" * 12, JobId("main", "0" * 64, 1), 0, opens)


@pytest.mark.parametrize("starts", range(1, START_TRIES))
def test_deaths_before_a_first_step_do_not_count_at_first(starts: int) -> None:
    assert not death_counts(segment(*[None] * starts), had_stepped=False)


def test_a_job_that_always_kills_its_owner_at_the_start_fails_in_the_end() -> None:
    assert death_counts(segment(*[None] * START_TRIES), had_stepped=False)
    assert death_counts(segment(*[8] * (START_TRIES + 1)), had_stepped=False)


def test_starts_are_counted_again_from_each_new_checkpoint() -> None:
    assert not death_counts(segment(*[None] * START_TRIES, 8), had_stepped=False)
    assert not death_counts(segment(*[4] * START_TRIES, 8, 8), had_stepped=False)


def test_a_death_after_a_step_counts_at_once() -> None:
    assert death_counts(segment(None), had_stepped=True)
