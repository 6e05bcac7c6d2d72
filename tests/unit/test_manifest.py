"""Canonical JSON, SHA256SUMS, manifests and commit records: one byte string for one value."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ctl.views.naming import parse_version
from services.vault import catalog, latest
from services.vault.archive import Archive
from shared.errors import ObjectDamaged, StoreUnavailable, UsageError
from shared.files import sha256_bytes
from shared.formats.canonical import canonical_json
from shared.formats.version import (
    CommitRecord,
    FileEntry,
    Latest,
    Manifest,
    StoredFile,
    parse_sums,
    root_hash,
    safe_path,
    sums,
    version_name,
)
from shared.ledger.lineage import Line
from shared.protocol.records import (
    CheckpointRef,
    Head,
    LineageSettings,
    LineClose,
    LineCreate,
    LineOpen,
    LineRollback,
)

HASH = "ab" * 32
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(VALUES)
def test_canonical_json_is_read_back_and_written_the_same(value: Any) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


def test_canonical_json_sorts_keys_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match=r"NaN|nan|JSON"):
        canonical_json(float("nan"))


def test_sha256sum_reads_what_is_written(tmp_path: Path) -> None:
    files = {"README.md": b"x", "adapter/a.safetensors": b"y" * 1000}
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    listed = sums((path, sha256_bytes(data)) for path, data in files.items())
    (tmp_path / "SHA256SUMS").write_bytes(listed)
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert sorted(parse_sums(listed)) == sorted(files)
    assert root_hash(parse_sums(listed).items()) == sha256_bytes(listed)


@pytest.mark.parametrize("text", ["../x", "/etc/passwd", "a/../../b", "", "a b", "a\nb", "~/x$"])
def test_a_path_that_leaves_the_folder_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        safe_path(text)
    with pytest.raises((UsageError, ValueError)):
        parse_sums(f"{HASH}  {text}\n".encode())


def test_versions_are_named_and_read() -> None:
    assert [version_name(n) for n in (1, 99, 1000)] == ["v001", "v099", "v1000"]
    assert [parse_version(text) for text in ("v003", "3", "v1000")] == [3, 3, 1000]
    with pytest.raises(UsageError):
        parse_version("v0")


def test_manifest_and_commit_record_are_read_back_as_the_same_bytes() -> None:
    manifest = Manifest(
        lineage="main",
        version=7,
        ledger_sequence=42,
        job=f"main/{HASH}/1",
        dataset_sha256=HASH,
        plan_sha256=None,
        base_root=HASH,
        checkpoint_id=HASH,
        global_step=10,
        closed_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        segments=[],
        files=[FileEntry(path="README.md", sha256=HASH, size=3)],
    )
    data = manifest.canonical()
    assert Manifest.model_validate_json(data).canonical() == data
    commit = CommitRecord(
        lineage="main",
        version=7,
        ledger_sequence=42,
        prefix="lineages/main/v007/",
        manifest_sha256=HASH,
        base_root=HASH,
        dataset_sha256=HASH,
        files=[
            StoredFile(
                path="README.md", sha256=HASH, size=3, store_version_id="a", backup_version_id="b"
            )
        ],
        verified_copies=3,
    )
    encoded = catalog.encode(commit)
    assert catalog.encode(CommitRecord.model_validate_json(encoded)) == encoded


# ---- latest --------------------------------------------------------------------------------------


def line_with(versions: int) -> Line:
    """A lineage whose versions 1, 2, … were closed at sequences 3, 5, 7, …"""
    line = Line("main")
    line.fold(1, LineCreate(by="t", lineage="main", settings=LineageSettings(base_root=HASH)))
    for number in range(1, versions + 1):
        close(line, number, 2 * number)
    return line


def close(line: Line, number: int, opened_at: int) -> None:
    segment = f"{opened_at:012x}"
    job = f"main/{number:064x}/1"
    line.fold(
        opened_at,
        LineOpen(
            by="t",
            lineage="main",
            segment=segment,
            job=job,
            job_sequence=1,
            position=0,
            global_step=0,
            micro_tokens=1,
            dtype="float32",
            lease="trainer.x",
            owner="t",
            host="h",
        ),
    )
    checkpoint = CheckpointRef(
        id=f"{number:064x}",
        prefix="p",
        segment=segment,
        fence=opened_at,
        position=1,
        global_step=number,
    )
    line.fold(
        opened_at + 1,
        LineClose(
            by="t",
            lineage="main",
            segment=segment,
            fence=opened_at,
            job=job,
            outcome="done",
            from_step=0,
            to_step=number,
            from_position=0,
            to_position=1,
            head=Head(base_root=HASH, global_step=number, checkpoint=checkpoint),
            version=number,
        ),
    )


def roll_back(line: Line, version: int, sequence: int) -> None:
    target = line.versions[version]
    line.fold(
        sequence,
        LineRollback(
            by="t",
            lineage="main",
            version=version,
            target=target,
            head=line.heads[target],
            cause="c",
        ),
    )


def as_pair(wish: Latest | None) -> tuple[int, int] | None:
    return (wish.version, wish.ledger_sequence) if wish else None


def test_latest_is_the_newest_committed_version_in_the_ancestry() -> None:
    line = line_with(3)
    assert as_pair(latest.wanted_latest(line, set())) is None
    assert as_pair(latest.wanted_latest(line, {1, 2})) == (2, 5)
    assert as_pair(latest.wanted_latest(line, {1, 2, 3})) == (3, 7)
    roll_back(line, 1, 8)
    assert as_pair(latest.wanted_latest(line, {1, 2})) == (1, 8)
    assert as_pair(latest.wanted_latest(line, {1, 2, 3})) == (1, 8), (
        "a lagging publish moves nothing"
    )
    close(line, 4, 9)
    assert as_pair(latest.wanted_latest(line, {1, 2, 3})) == (1, 8)
    assert as_pair(latest.wanted_latest(line, {1, 2, 3, 4})) == (4, 10)


def test_below_the_target_of_a_rollback_nothing_is_latest() -> None:
    line = line_with(2)
    roll_back(line, 2, 6)
    assert as_pair(latest.wanted_latest(line, {1})) is None
    assert as_pair(latest.wanted_latest(line, {1, 2})) == (2, 6)


# ---- the archive folder --------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    (tmp_path / "archive").mkdir()
    (tmp_path / "state").mkdir()
    made = Archive(tmp_path / "archive", tmp_path / "state" / "archive-id")
    made.ping()
    return made


def test_what_was_sent_wrong_leaves_no_file_behind(archive: Archive, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"other bytes")
    with source.open("rb") as file, pytest.raises(ObjectDamaged):
        archive.put_stream("duramen", "a/b", file, 11, HASH)
    assert not list((tmp_path / "archive" / "a").iterdir())


def test_a_disk_that_is_not_mounted_is_no_archive(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "archive").rename(tmp_path / "unmounted")
    with pytest.raises(StoreUnavailable):
        archive.ping()
    (tmp_path / "archive").mkdir()
    with pytest.raises(StoreUnavailable, match="mounted"):
        archive.ping()
