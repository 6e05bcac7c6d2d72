"""What is ill for too long is ended, and only once its disk has room."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local import status_file, watch
from infra.local.status_file import write_status
from infra.local.watch import Watch
from infra.servers.write_probe import folders
from services.ctl.supervised import ill_programs


class Clock:
    """A clock that is set by hand; a watch asks at once, in this thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def pass_seconds(self, seen: Watch, seconds: int) -> list[str]:
        verdicts = []
        if not seen._asked:
            seen.began()
        for _ in range(seconds):
            self.now += 1
            seen._ask(seen._begun)
            seen._asked = self.now
            verdicts.append(seen.verdict())
        return [why for why in verdicts if why]


def always(found: str) -> Callable[[], str]:
    return lambda: found


@pytest.mark.parametrize(
    ("before", "ill_seconds", "ended"),
    [
        ("well", 10, 0),  # it may still recover
        ("well", 25, 1),
        ("well", 34, 1),  # back-off: not at once again
        ("starting", 60, 0),  # a slow start is not an illness
        ("starting", 150, 1),
    ],
)
def test_only_what_is_ill_for_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, before: str, ill_seconds: int, ended: int
) -> None:
    clock = Clock(monkeypatch)
    seen = Watch(always(""), patience=20)
    if before == "well":
        assert clock.pass_seconds(seen, 5) == []
    seen.ill = always("no space left on device")
    found = clock.pass_seconds(seen, ill_seconds)
    assert bool(found) is bool(ended)
    assert len(found) <= 2


def test_a_question_that_fails_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    seen = Watch(always(""), patience=20)
    clock.pass_seconds(seen, 1)

    def broken() -> str:
        raise ValueError("half an answer")

    seen.ill = broken
    assert clock.pass_seconds(seen, 30)[0] == "ValueError: half an answer"
    assert seen.said() == "ValueError: half an answer"


def test_nothing_is_ended_while_its_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, free = Clock(monkeypatch), [0]
    usage = lambda folder: type("Disk", (), {"free": free[0], "total": 1 << 30})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage)
    seen = Watch(always(""), patience=20, folder=tmp_path)
    clock.pass_seconds(seen, 1)
    seen.ill = always("a stream takes no writes")
    assert clock.pass_seconds(seen, 300) == []
    assert "is full (0 MiB are free)" in seen.said()
    free[0] = 1 << 29
    assert clock.pass_seconds(seen, 15) == []
    assert clock.pass_seconds(seen, 15)[0] == "a stream takes no writes"


def test_status_is_told_on_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert write_status(path, {"phase": "ready", "long": "x" * 3000})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(status_file, "write_synced", full)
    assert write_status(path, {"phase": "ready", "ill": {"nats": "full"}})
    assert json.loads(path.read_text())["ill"] == {"nats": "full"}
    assert not write_status(tmp_path / "new", {})
    assert watch.no_room(tmp_path / "gone")


def test_the_write_probe_reaches_every_database() -> None:
    assert len(set(folders())) == 8


@pytest.mark.parametrize(
    ("why", "next_step"),
    [("the disk of /x is full (0 MiB are free)", "free some space"), ("no answer", "wait: ")],
)
def test_status_and_doctor_say_what_the_supervisor_found(
    tmp_path: Path, why: str, next_step: str
) -> None:
    path = tmp_path / "status.json"
    write_status(path, {"pid": os.getpid(), "ill": {"nats": why}})
    (found,) = ill_programs(path)
    assert found.line.startswith(f"nats: {why}.  Next: {next_step}")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "ill": 3}', '{"pid": 1, "ill": 3}'])
def test_a_status_file_that_says_nothing_is_let_be(tmp_path: Path, text: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(text)
    assert ill_programs(path) == []
    assert ill_programs(None) == []
