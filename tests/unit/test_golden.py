"""What was stored and said by earlier code is still written to the byte, and still read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from services.trainer import checkpoint
from services.trainer.worker.snapshot import snapshot_file
from services.vault.catalog import encode
from shared.files import sha256_bytes
from shared.formats.checkpoint import header_or_none
from shared.formats.plan import Plan
from shared.formats.version import CommitRecord, Latest, Manifest, parse_sums
from shared.ledger.jobs import Table, parse_record
from shared.protocol.control import Desired, Once
from shared.protocol.events import Event
from shared.protocol.names import JobVerb, LineVerb
from shared.protocol.observed import Lease, Observed
from tests.golden import files, make, messages
from tests.golden.files import INPUTS, STORED
from tests.golden.messages import Sent

# Sentences for people: they may be said better one day.
WORDS = re.compile(rb'"message": ".*?(?<!\\)"')


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files.built(tmp_path_factory.mktemp("golden"))


def stored_files() -> dict[str, bytes]:
    """All golden files but those which are compared in their own way."""
    found = {str(p.relative_to(STORED)): p.read_bytes() for p in STORED.rglob("*") if p.is_file()}
    return {
        n: d for n, d in found.items() if not n.startswith(("messages/", "snapshot.", "result."))
    }


def sent(name: str) -> list[Sent]:
    lines = (STORED / "messages" / f"{name}.txt").read_bytes().splitlines()
    return [Sent.parse(line) for line in lines]


def only(pattern: str) -> Path:
    (found,) = STORED.glob(pattern)
    return found


def test_files_have_the_same_bytes_under_the_same_names(built: dict[str, bytes]) -> None:
    before = stored_files()
    assert sorted(built) == sorted(before)
    for name, data in before.items():
        assert WORDS.sub(b"", built[name]) == WORDS.sub(b"", data), name


@pytest.mark.parametrize("name", ["jobs", "commands", "leases", "events"])
def test_messages_have_the_same_bytes_under_the_same_subjects(name: str) -> None:
    today = make.spoken()[name].splitlines()
    assert today == (STORED / "messages" / f"{name}.txt").read_bytes().splitlines()


def test_the_stored_story_has_every_verb() -> None:
    said = [s.subject.split(".") for s in sent("jobs")]
    assert {s[-1] for s in said if s[1] == "rec"} == set(get_args(JobVerb))
    assert {s[-1] for s in said if s[1] == "line"} == set(get_args(LineVerb))


def test_the_stored_ledger_is_folded_whole() -> None:
    table = Table()
    for one in sent("jobs"):
        table.fold(one.entry)
    assert table.voids == []
    states = {job.id.run: job.record.state for job in table.jobs.values() if job.id.sha256 < "3"}
    assert states == {1: "done", 2: "skipped"}
    line = table.lines["main"]
    assert line.latest == 1
    assert line.head is not None
    assert line.head.checkpoint == messages.CHECKPOINT
    assert [s.id for s in line.segments_behind(1)] == [messages.FIRST, messages.SECOND]


def test_stored_commands_are_read() -> None:
    valid: dict[str, int] = {}
    for one in sent("commands"):
        model = Desired if ".desired." in one.subject else Once
        before = valid.get(one.subject, 0)
        record = parse_record(one.entry, model, before, before)
        assert isinstance(record, model), record
        valid[one.subject] = one.sequence


def test_stored_events_and_leases_are_read() -> None:
    for one in sent("events"):
        assert Event.model_validate_json(one.data).encode() == one.data
    for one in sent("leases"):
        assert Lease.model_validate_json(one.data).encode() == one.data


def test_what_services_showed_of_themselves_is_read_or_left_alone() -> None:
    for line in (INPUTS / "observed.txt").read_bytes().splitlines():
        subject, data = line.split(b" ", 1)
        try:
            assert Observed.model_validate_json(data).service == subject.decode().split(".")[2]
        except ValidationError:  # of an older form: as if nothing had been shown
            continue


def test_stored_checkpoints_are_whole_and_keep_their_ids() -> None:
    folders = sorted((STORED / "checkpoints").iterdir())
    headers = [checkpoint.verify_checkpoint(folder) for folder in folders]
    assert [h.quantize for h in headers] == ["nf4", "none"]
    for folder, header in zip(folders, headers, strict=True):
        assert folder.name == f"{header.global_step:08d}-{header.id[:12]}"
        assert header_or_none((folder / "header.json").read_bytes()) == header


def test_a_stored_plan_is_read_and_named_by_its_hash() -> None:
    path = only("plans/*.json")
    plan = Plan.from_bytes(path.read_bytes())
    assert plan.to_bytes() == path.read_bytes()
    assert sha256_bytes(path.read_bytes()) == path.stem
    assert plan.heldout_ids
    assert plan.left_out
    assert {p.split for p in plan.probes} == {"trained", "heldout", "eval"}


READ: dict[str, Callable[[bytes], bytes]] = {
    "version/MANIFEST.json": lambda data: Manifest.model_validate_json(data).canonical(),
    "catalog/v001.json": lambda data: encode(CommitRecord.model_validate_json(data)),
    "catalog/v002.json": lambda data: encode(CommitRecord.model_validate_json(data)),
}


@pytest.mark.parametrize("name", READ)
def test_what_a_stored_version_says_of_itself_is_read(name: str) -> None:
    data = (STORED / name).read_bytes()
    assert READ[name](data) == data


def test_stored_sums_and_latest_are_read() -> None:
    listed = parse_sums((STORED / "version/SHA256SUMS").read_bytes())
    assert listed["MANIFEST.json"] == sha256_bytes((STORED / "version/MANIFEST.json").read_bytes())
    latest = Latest.model_validate_json((STORED / "catalog/latest.json").read_bytes())
    assert (latest.version, latest.ledger_sequence) == (1, 9)


def test_snapshots_have_the_same_columns_and_the_stored_one_is_read(tmp_path: Path) -> None:
    shape = (STORED / "snapshot.txt").read_text("utf-8")
    assert files.shape(files.snapshot(tmp_path)) == shape
    assert files.shape((STORED / "snapshot.parquet").read_bytes()) == shape
    rows = snapshot_file.read_snapshot(STORED / "snapshot.parquet")
    assert json.dumps(rows) == json.dumps(
        snapshot_file.read_snapshot(tmp_path / "00000040-3.parquet")
    )
    assert rows is not None
    assert [row["answer"] for row in rows] == ["Red.", None]
