"""What an event says is typed; what nobody knows is shown as it is and acted on by nobody."""

import json

import pytest

from services.ctl.commands.watch import describe_event
from services.herald.happenings import spoken
from services.ingest.outcome.verdict import first_ignored
from shared.formats.report import Contents
from shared.ledger.jobs import Table
from shared.protocol.events import (
    KINDS,
    Alarm,
    Answered,
    Event,
    JobQueued,
    SnapshotStored,
    SplitSummary,
    parse_event,
)
from tests.golden.told import DECISION, FIRST, TOLD, TOLD_LATER

FACTS = [
    Event.model_validate({"at": "2026-03-01T12:30:15Z", **fields})
    for fields in (*TOLD, *TOLD_LATER)
]


def test_every_kind_has_a_stored_example() -> None:
    assert {event.kind for event in FACTS} == set(KINDS)


@pytest.mark.parametrize("event", FACTS, ids=lambda event: f"{event.service}-{event.kind}")
def test_what_is_read_is_written_again_to_the_byte(event: Event) -> None:
    data = parse_event(event)
    assert data is not None
    again = Event.of(event.service, data, lineage=event.lineage, job=event.job, ref=event.ref)
    same = again.model_copy(update={"nonce": event.nonce, "at": event.at})
    assert same.encode() == event.encode()


def test_a_loss_that_is_not_a_number_travels_as_null() -> None:
    numbers = SplitSummary(count=1, loss=float("nan"), token_accuracy=0.0, answered=0)
    stored = SnapshotStored.model_validate(
        {
            "global_step": 4,
            "position": 4,
            "summary": {"trained": numbers},
            "decision": DECISION,
            "segment": FIRST,
            "fence": 3,
        }
    )
    sent = Event.of("trainer", stored).encode()
    assert json.loads(sent)["data"]["summary"]["trained"]["loss"] is None
    read = parse_event(Event.model_validate_json(sent))
    assert isinstance(read, SnapshotStored)
    assert read.summary["trained"].loss is None


UNKNOWN = [
    Event(service="vault", kind="proved", data={"version": 3}),
    Event(service="vault", kind="version_published", data={"version": 3, "proof": "later"}),
    Event(service="trainer", kind="answered", data={"command": "c", "outcome": "later"}),
    Event(service="ingest", kind="alarm", data={}),
]


@pytest.mark.parametrize("event", UNKNOWN, ids=lambda event: str(event.kind))
def test_what_is_unknown_is_shown_as_it_is(event: Event) -> None:
    assert parse_event(event) is None
    data = json.dumps(event.data, separators=(",", ":"))
    assert describe_event(Table(), event) == f'{event.service} {event.kind}: {{"data":{data}}}'


def test_people_are_told_of_an_alarm_whatever_its_shape() -> None:
    odd = Event(service="ingest", kind="alarm", data={"what": "later", "colour": "red"})
    assert spoken(odd) == ("alarm", 'ingest alarm: {"data":{"what":"later","colour":"red"}}')
    plain = Event.of("trainer", Alarm(what="store_away", detail="for 61 s"))
    assert spoken(plain) == ("alarm", "trainer: store_away for 61 s")
    assert spoken(Event(service="vault", kind="proved", data={})) is None


def test_answers_of_trainer_and_vault_are_one_model() -> None:
    answers = [parse_event(event) for event in FACTS if event.kind == "answered"]
    assert [type(answer) for answer in answers] == [Answered] * 3
    kinds = [a.receipt and type(a.receipt).__name__ for a in answers if isinstance(a, Answered)]
    assert kinds == [None, "RolledBack", "NoReceipt"]


def test_a_file_with_ignored_fields_is_told_as_queued_with_their_counts() -> None:
    names = {"[red]id": 300, "x" * 9000: 2, **{f"n{n}": 1 for n in range(20)}}
    contents = Contents(name="a", original_sha256="", original_bytes=1, ignored_fields=names)
    ignored = first_ignored(contents)
    assert len(json.dumps(ignored)) < 1000
    plain = JobQueued(name="a", rows=300, level="normal", why="", next="")
    assert "ignored" not in plain.told()
    event = Event.of("ingest", plain.model_copy(update={"ignored": ignored}), lineage="main")
    said = describe_event(Table(), Event.model_validate_json(event.model_dump_json()))
    assert "normal priority; ignored fields: [red]id (300 rows), xxx" in said
    assert "ignored" not in describe_event(Table(), Event.of("ingest", plain, lineage="main"))
