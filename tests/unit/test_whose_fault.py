"""Whose fault an error is stands in its fields, whatever the names in its sentence look like."""

import pytest

from services.ctl.commands.doctor import look_around
from services.trainer.supervisor.run.failures import not_started
from services.vault.copies import is_own_fault
from shared.errors import (
    AlreadyExists,
    DuramenError,
    Location,
    ObjectDamaged,
    ObjectMissing,
    StoreUnavailable,
)
from shared.protocol.names import JobId
from shared.store import layout

RIGHT, WRONG = "ab" * 32, "cd" * 32
JOB = JobId("main", "ef" * 32, 1)


def test_a_copy_is_to_blame_unless_it_was_fed_wrong_bytes() -> None:
    here = Location("backup", "duramen", "notes (as sent).txt")
    assert is_own_fault("backup", ObjectDamaged(here, RIGHT, WRONG))
    assert not is_own_fault("backup", ObjectDamaged(here, RIGHT, WRONG, as_sent=True))
    assert not is_own_fault("store", ObjectDamaged(here, RIGHT, WRONG))
    assert is_own_fault("backup", ObjectMissing("backup", "duramen", "x"))
    assert is_own_fault("archive", AlreadyExists(Location("archive", "", "x")))
    assert not is_own_fault("backup", StoreUnavailable("backup: away"))


def test_a_damaged_base_makes_its_lineage_wait_and_a_damaged_plan_one_job() -> None:
    base = Location("store", "duramen", layout.base_file("ab" * 32, "config.json"))
    other = Location("store", "duramen", f"plans/{layout.BASES}x.json")
    assert not_started(ObjectDamaged(base, RIGHT, WRONG), JOB).kind == "base"
    assert not_started(ObjectDamaged(other, RIGHT, WRONG), JOB).kind == "data"
    assert not_started(ObjectMissing(*base), JOB).kind == "base"


@pytest.mark.parametrize(
    ("next_step", "found"),
    [("duramen doctor", "It is away."), ("duramen status", "It is away.  Next: duramen status")],
)
def test_doctor_does_not_send_anybody_to_itself(next_step: str, found: str) -> None:
    def away() -> str:
        raise DuramenError("It is away.", next_step=next_step)

    assert look_around("it", away).found == found
