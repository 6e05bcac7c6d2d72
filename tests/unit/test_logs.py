"""Logs are bounded and kept, and `duramen logs` shows their lines in the order of their times."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra import log_files
from infra.log_files import PARTS_KEPT, keep_bounded, part
from services.ctl.commands.installation import logs
from services.ctl.views import log_lines
from shared.errors import NotFound, UsageError

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def event(minute: int, name: str, **fields: str) -> str:
    rest = "".join(f', "{key}": "{value}"' for key, value in fields.items())
    at = f"2026-05-04T11:{minute:02}:00.5Z"
    return f'{{"event": "{name}"{rest}, "level": "info", "timestamp": "{at}"}}'


def test_a_log_that_grows_is_set_aside_and_only_its_last_parts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "LOG_BYTES", 100)
    log = tmp_path / "trainer.log"
    with log.open("ab", buffering=0) as held:  # as a program holds it
        for number in range(PARTS_KEPT + 3):
            held.write(b"%d" % number * 90)
            keep_bounded(log)
            assert log.stat().st_size == 90
            held.write(b"x" * 20)
            keep_bounded(log)
            assert log.stat().st_size == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "trainer.log",
        *(f"trainer.log.{n}" for n in range(1, PARTS_KEPT + 1)),
    ]
    assert part(log, 1).read_bytes() == b"6" * 90 + b"x" * 20
    assert part(log, PARTS_KEPT).read_bytes()[:1] == b"3"


def test_a_full_disk_bounds_a_log_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_files, "LOG_BYTES", 100)
    monkeypatch.setattr("shutil.copyfile", full)
    log = tmp_path / "nats.log"
    log.write_bytes(b"a" * 101)
    keep_bounded(log)
    assert log.stat().st_size == 0
    assert not part(log, 1).exists()


@pytest.mark.parametrize(
    ("since", "at"),
    [
        ("30s", NOW - timedelta(seconds=30)),
        ("2h", NOW - timedelta(hours=2)),
        ("1d", NOW - timedelta(days=1)),
        ("2026-05-04T10:00:00+00:00", NOW - timedelta(hours=2)),
    ],
)
def test_a_time_may_be_a_span_or_a_moment(since: str, at: datetime) -> None:
    assert log_lines.moment(since, NOW) == at


@pytest.mark.parametrize("since", ["soon", "10", "10y", ""])
def test_what_is_not_a_time_is_refused(since: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        log_lines.moment(since, NOW)


def test_lines_of_all_programs_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    (tmp_path / "vault.log.1").write_text(event(1, "old") + "\n")
    (tmp_path / "vault.log").write_text(event(20, "a") + "\nTraceback\n" + event(40, "c") + "\n")
    (tmp_path / "trainer.log").write_text(event(30, "b", said="\x1b[31mred\u202e") + "\n")
    (tmp_path / "supervisor.log").write_text("2026-05-04T11:35:00Z started trainer (pid 7)\n")
    names = logs.programs_to_show(tmp_path, None)
    assert names == ["supervisor", "trainer", "vault"]
    begun = datetime(2026, 5, 4, 11, 10, tzinfo=UTC)
    found = [line for name in names for line in logs.log_lines_kept(tmp_path, name, begun, 0)]
    shown = [log_lines.line_for_people(line) for line in log_lines.by_time(found)]
    assert " ".join(line.split()[0] for line in shown) == "vault vault trainer supervisor vault"
    assert shown[0] == "vault      2026-05-04T11:20:00 info    a"
    assert "Traceback" in shown[1]
    assert "\x1b" not in shown[2]
    assert "\u202e" not in shown[2]
    everything = logs.log_lines_kept(tmp_path, "vault", datetime(2026, 5, 4, tzinfo=UTC), 0)
    said = [line.text for line in everything]
    assert said == [event(1, "old"), event(20, "a"), "Traceback", event(40, "c")]
    last = logs.log_lines_kept(tmp_path, "vault", None, 1)
    assert [line.text for line in last] == [event(40, "c")]


def test_servers_say_the_time_in_their_own_ways() -> None:
    local = NOW.astimezone().replace(tzinfo=None)
    nats = f"[7] {local:%Y/%m/%d %H:%M:%S}.000000 [INF] Server is ready"
    year = datetime.now(UTC).year
    weed = f"I{local:%m%d %H:%M:%S}.123456 master.go:1 started"
    assert log_lines.time_of(nats) == NOW
    found = log_lines.time_of(weed)
    assert found is not None
    assert found.replace(year=2026) == NOW
    assert found.year == year
    assert log_lines.time_of("[7] 2026/99/99 00:00:00.000000 [INF]") is None
    assert log_lines.time_of("no time at all") is None


def test_what_is_added_is_followed_in_whole_lines_also_when_the_log_begins_again(
    tmp_path: Path,
) -> None:
    log = tmp_path / "vault.log"
    log.write_text(event(1, "before") + "\n")
    positions = {"vault": logs.log_size(tmp_path, "vault")}
    with log.open("a") as file:
        file.write(event(2, "one") + "\n" + '{"event": "ha')
    assert [line.text for line in logs.added(tmp_path, "vault", positions)] == [event(2, "one")]
    with log.open("a") as file:
        file.write('lf"}\n')
    assert [line.text for line in logs.added(tmp_path, "vault", positions)] == ['{"event": "half"}']
    log.write_text("new\n")
    assert [line.text for line in logs.added(tmp_path, "vault", positions)] == ["new"]


def test_a_program_without_a_log_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    (tmp_path / "vault.log").write_text("")
    with pytest.raises(NotFound, match="choose one of vault"):
        logs.programs_to_show(tmp_path, "valt")
