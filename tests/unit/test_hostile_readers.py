"""Bytes of others end no reader: what cannot be read counts as nothing, or is refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.herald.alerts import Standing
from services.herald.happenings import History
from services.herald.notify import Address
from services.herald.outlet import Outlet
from services.trainer import device
from services.trainer.supervisor.own_lease import lease_name
from shared.bus.client import EXPECTED_SUBJECT
from shared.bus.entry import EXPECTED, Entry
from shared.bus.marks import Marks
from shared.errors import UnknownSchema
from shared.foreign import state_file
from shared.foreign.json_bytes import json_object, whole_number
from shared.ledger.control import Control, said_in
from shared.ledger.jobs import Table

NESTED = b"[" * 200_000 + b"]" * 200_000
SHA = "a" * 64
BYTES = (
    *(b"", b"null", b"[]", b"{}", b"7", b'"x"', b"{", b"\xff\xfe", b'{"nonce":"\\ud800"}', NESTED),
    *(b'{"JOBS":[]}', b'{"JOBS":[1e999,"x"]}', b'{"JOBS":["x",1]}', b'{"JOBS":7}', b"NaN"),
    *(b'{"here":NaN}', b'{"dtype":[]}', b"9" * 5000, "²".encode(), b"-1", b"\x00" * 4096),
    *(b'{"schema":"x"}', b'{"schema":1.5}', b'{"schema":[]}', b'{"schema":' + b"9" * 400 + b"}"),
)
MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
hostile = st.sampled_from(BYTES) | st.binary(max_size=200)
SUBJECTS = (
    *(f"jobs.rec.main.{SHA}.{run}.submit" for run in ("1", "²", "٣", "01", "0", "9" * 5000)),
    *(f"jobs.line.main.{verb}" for verb in ("create", "open", "close", "rollback", "²")),
    *("jobs.line.main", "jobs", "", "ctl.desired.trainer", "ctl.once.trainer"),
)
EXPECTATIONS = ("0", "", "²", "٣", "-1", "9" * 5000, " 0", "0x1")


async def nowhere(*_: object) -> None:
    """Nothing is sent."""


STATE: dict[str, Callable[[Path], object]] = {
    "marks.json": Marks,
    "dtype.json": lambda path: device.holds(path, "cpu"),
    "lease-id": lambda path: lease_name(path.parent),
    "grafana.json": lambda path: Outlet("grafana", nowhere, lambda _: True, path.parent),
    "answered-through": state_file.kept_number,
}


def entry(data: bytes, subject: str, expected: str, sequence: int = 1) -> Entry:
    return Entry("JOBS", sequence, subject, data, {EXPECTED: expected, EXPECTED_SUBJECT: subject})


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(hostile, st.sampled_from(SUBJECTS), st.sampled_from(EXPECTATIONS))
def test_no_message_ends_a_fold(data: bytes, subject: str, expected: str) -> None:
    message = entry(data, subject, expected)
    assert message.nonce is None or isinstance(message.nonce, str)
    table, control, history = Table(), Control("trainer"), History(lambda _: None)
    said_in(message)
    history.event(message)
    try:
        table.fold(message)
        control.fold(message)
        history.job(message)
        history.command(message)
    except UnknownSchema:  # a newer program's: the one thing that is waited for
        pytest.fail("none of these was written by a newer program")
    assert not table.jobs
    assert not control.once


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(hostile)
def test_no_json_of_others_raises_but_a_value_error(data: bytes) -> None:
    try:
        assert isinstance(json_object(data), dict)
    except ValueError:
        return


@pytest.mark.parametrize("text", ["²", "٣", "", "-1", " 1", "9" * 19, "1.0", "0x1"])
def test_only_ascii_digits_are_a_number(text: str) -> None:
    assert whole_number(text) is None


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("data", BYTES, ids=lambda data: repr(data[:20]))
def test_a_damaged_state_file_is_set_aside_and_the_service_starts(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    STATE[name](path)
    if state_file.lost:
        assert path.with_name(f"{name}.damaged").read_bytes() == data
    STATE[name](path)  # the next start
    assert len(state_file.lost) <= 1


@pytest.mark.parametrize("data", BYTES, ids=lambda data: repr(data[:20]))
def test_alerts_that_were_told_may_be_garbage(tmp_path: Path, data: bytes) -> None:
    address = Address("json://127.0.0.1:9/", 0)
    (tmp_path / f"{address.name}.alerts").write_bytes(data)
    assert isinstance(Standing(address, tmp_path, 1.0).standing, dict)
