"""What is wrong comes first in `duramen status`, and only what is wrong."""

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from services.ctl.cli import the_running
from services.ctl.commands.status import versions_line
from services.ctl.troubles import SystemSeen, troubles
from shared.answers.vault import VersionRow
from shared.ledger.jobs import Table
from shared.protocol.names import now
from shared.protocol.observed import Observed
from shared.service_names import SERVICES


def row(number: int, copies: int, reason: str | None = None) -> VersionRow:
    places = ["store", "backup", "archive"][:copies]
    return VersionRow(
        lineage="main",
        version=number,
        name=f"v{number:03}",
        job="3f9a1c2b7d10.1",
        dataset="0" * 64,
        file="a.jsonl",
        outcome="done",
        steps=4,
        global_step=4 * number,
        base_root="1" * 64,
        ledger_sequence=number,
        closed_at="2026-01-01T00:00:00+00:00",
        in_ancestry=True,
        reason=reason,
        state="published" if copies else "pending",
        places=places,
        copies=copies,
        domains=copies,
        size=1 if copies else None,
        published_at=None,
        latest=False,
    )


def seen(
    versions: list[VersionRow] | None, *, silent: str = "", seconds: float = 0.0
) -> SystemSeen:
    """Return a system that runs; the service `silent` has not spoken for `seconds`."""
    services = {
        name: {
            name: Observed(
                service=name,
                instance=name,
                state="idle",
                at=now() - timedelta(seconds=seconds if name == silent else 1),
            )
        }
        for name in SERVICES
    }
    return SystemSeen(Table(), services, versions=versions)


def lines(found: SystemSeen) -> list[str]:
    return [trouble.line for trouble in troubles(found)]


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert lines(seen([row(1, 3), row(2, 3)])) == []


def test_versions_that_no_place_has_are_named_with_the_reason() -> None:
    found = seen(
        [row(5, 3), row(6, 0, "backup: InternalError"), row(7, 0)], silent="vault", seconds=120
    )
    first, second = lines(found)
    assert first == (
        "main v006, v007 are trained but not published: the only copy of each is a checkpoint "
        "(backup: InternalError).  Next: duramen check"
    )
    assert second == "vault has been silent for 2m.  Next: duramen doctor"
    assert versions_line(found) == "latest version: main v005"


def test_a_version_that_the_vault_is_just_publishing_is_not_wrong() -> None:
    assert lines(seen([row(1, 0)])) == []


def test_a_version_that_a_place_lacks_is_named_with_the_places_that_have_it() -> None:
    assert lines(seen([row(1, 2)])) == [
        "main v001 has 2 copies of 3, in store and backup.  Next: duramen check"
    ]


def test_a_place_that_lost_everything_is_one_line_and_not_one_for_each_version() -> None:
    (said,) = lines(seen([row(number, 2) for number in range(1, 19)]))
    assert said == (
        "main v001, v002, v003, v004, v005 and 13 more each have 2 copies of 3, in store and "
        "backup.  Next: duramen check"
    )


@pytest.mark.parametrize(("seconds", "wrong"), [(10, False), (40, True), (-3000, False)])
def test_a_silent_service_is_named(seconds: float, wrong: bool) -> None:
    said = lines(seen([], silent="trainer", seconds=seconds))
    assert said == (["trainer has been silent for 40s.  Next: duramen doctor"] if wrong else [])


@pytest.mark.parametrize(("skew", "how"), [(1200.0, "20m ahead of"), (-7200.0, "2h 0m behind")])
def test_a_wrong_clock_is_called_a_clock_and_not_silence(skew: float, how: str) -> None:
    found = seen([], silent="trainer", seconds=-skew)
    found.ages["trainer", "trainer"], found.skews["trainer"] = 2.0, skew
    text = f"the clock of trainer is {how} the clock of the bus"
    assert lines(found) == [f"{text}.  Next: set that host's clock: timedatectl set-ntp true"]


def test_a_service_that_never_spoke_is_named() -> None:
    found = seen([])
    found.services["ingest"] = {}
    assert lines(found) == ["ingest has never reported anything.  Next: duramen doctor"]


def test_the_installation_that_runs_is_spoken_to(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bus:
        files = []
        for name, port in (("stopped", 1), ("runs", bus.getsockname()[1])):
            (tmp_path / name).mkdir()
            files.append(tmp_path / name / "env")
            files[-1].write_text(f"DURAMEN_NATS_URL=nats://127.0.0.1:{port}\n")
        assert the_running(files) == files[1]
    assert the_running(files) == files[0]
