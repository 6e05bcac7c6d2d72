"""`duramen check` is green only if every place was looked at and holds every committed version."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.ctl.check import copies
from services.ctl.check.world import World
from services.ctl.commands.check import Check, Outcome, run_one
from shared.formats.version import CommitRecord
from shared.ledger.jobs import Table
from shared.protocol.names import now
from shared.protocol.observed import Observed, ObservedState
from shared.store import layout
from shared.store.folder import Folder
from shared.store.place import PRECIOUS

KEY = layout.commit("main", 1)
RECORD = CommitRecord(
    lineage="main",
    version=1,
    ledger_sequence=3,
    prefix="lineages/main/v001/",
    manifest_sha256="0" * 64,
    base_root="1" * 64,
    dataset_sha256="2" * 64,
    files=[],
    verified_copies=3,
)
PLACES = ("store", "backup", "archive")


def world_of(folder: Path, holds: tuple[str, ...], vault: Observed | None = None) -> World:
    """Return a system whose places are folders; those in `holds` have the commit of v001."""
    found: dict[str, Any] = {}
    for name in PLACES:
        (folder / name).mkdir()
        found[name] = Folder(name, folder / name)
        if name in holds:
            found[name].create(PRECIOUS, KEY, RECORD.model_dump_json().encode())
    observed = {"vault": [(1, vault)]} if vault else {}
    return World(Table(), {}, [], observed, found["store"], found["backup"], found["archive"])


def said(state: ObservedState, why: str, seconds: float = 0.0) -> Observed:
    at = now() - timedelta(seconds=seconds)
    return Observed(service="vault", instance="vault", state=state, waiting={"main": why}, at=at)


def outcome(world: World, holds: Callable[[World], Any]) -> Outcome:
    return run_one(Check("one", 1, holds), world)


@pytest.mark.parametrize("empty", PLACES)
def test_an_empty_place_is_named(tmp_path: Path, empty: str) -> None:
    world = world_of(tmp_path, tuple(name for name in PLACES if name != empty))
    found = outcome(world, copies.every_place_holds_something)
    assert [(each.where, "empty" in each.what) for each in found.findings] == [(empty, True)]
    assert not outcome(world, copies.all_places_hold_the_same_commits).is_green


@pytest.mark.parametrize("lost", PLACES)
@pytest.mark.parametrize(
    "says",
    [
        None,
        ("idle", "nothing", 0),
        ("waiting", "v001 is not published: backup has lost its commit", 0),
        ("running", "publishing main/v001", 600),
    ],
    ids=["never seen", "idle", "waits for ever", "silent"],
)
def test_a_commit_that_a_place_lacks_is_a_finding_unless_the_vault_copies_it_now(
    tmp_path: Path, lost: str, says: tuple[ObservedState, str, float] | None
) -> None:
    vault = said(*says) if says else None
    world = world_of(tmp_path, tuple(name for name in PLACES if name != lost), vault)
    found = outcome(world, copies.all_places_hold_the_same_commits)
    assert [each.where for each in found.findings] == [KEY]
    assert f"not in {lost}" in found.findings[0].what
    if vault is not None and vault.state == "waiting":
        assert "backup has lost its commit" in found.findings[0].what


def test_a_copy_that_is_being_made_is_not_green_either(tmp_path: Path) -> None:
    vault = said("running", "publishing main/v001")
    world = world_of(tmp_path, ("store", "backup"), vault)
    found = outcome(world, copies.all_places_hold_the_same_commits)
    assert (found.findings, found.is_green) == ([], False)
    assert "publishing main/v001" in found.copying[0]


def test_a_commit_that_backup_has_lost_is_a_finding_whatever_the_vault_does(tmp_path: Path) -> None:
    vault = said("running", "publishing main/v002")
    world = world_of(tmp_path, ("store", "archive"), vault)
    assert outcome(world, copies.all_places_hold_the_same_commits).findings


def test_the_files_of_a_version_are_read_though_backup_has_lost_its_record(tmp_path: Path) -> None:
    world = world_of(tmp_path, ("archive",))
    assert layout.dataset_data("2" * 64) in {key for key, _, _ in copies.committed_files(world)}


def test_a_place_that_cannot_be_looked_at_is_not_green(tmp_path: Path) -> None:
    world = world_of(tmp_path, PLACES)
    (tmp_path / "archive").rename(tmp_path / "moved")
    found = outcome(world, copies.every_place_holds_something)
    assert not found.is_green
    assert "archive" in (found.not_checked or "")
    assert found.is_outage


def test_a_place_that_is_not_set_here_is_not_green(tmp_path: Path) -> None:
    world = world_of(tmp_path, PLACES)
    world.archive = None
    assert not outcome(world, copies.every_place_holds_something).is_green


def test_all_copies_in_all_places_are_green(tmp_path: Path) -> None:
    world = world_of(tmp_path, PLACES)
    assert outcome(world, copies.every_place_holds_something).is_green
    assert outcome(world, copies.all_places_hold_the_same_commits).is_green
