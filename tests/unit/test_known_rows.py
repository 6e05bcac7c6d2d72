"""Rows that the lineage has already trained are left out of a plan, counted and named."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.model.template import Chat
from services.trainer.protocol import Spec
from services.trainer.worker.data.known import AllRowsKnown
from services.trainer.worker.data.plan import build_plan, load_plan
from shared.errors import CannotTrain
from shared.formats.dataset import row_id
from shared.formats.known_rows import new_rows_text, nothing_new_text, ranges
from shared.formats.plan import KnownFrom, KnownRows, Plan
from shared.formats.row_ids import (
    NO_PROMPT,
    RECORD,
    ids_in,
    ids_of,
    opened,
    records_of,
    sealed,
)
from tests.tiny import Conversation, line_of, shared_tiny, tiny_conversations
from tests.unit.test_plan import CLOCK, make_spec

SETTINGS = {"epochs": 2, "batch_tokens": 300, "max_length": 120, "seed": 5}


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(shared_tiny(), CLOCK)


class Lineage:
    """A lineage whose jobs are planned one after the other, as if each were trained."""

    def __init__(self, folder: Path, chat: Chat) -> None:
        self.folder, self.chat = folder, chat
        self.settings, self.allow_bad = SETTINGS, ""
        self.trained: list[dict[str, Any]] = []
        self.plans: list[Path] = []

    def spec(self, rows: Sequence[Conversation], *, again: bool = False) -> Spec:
        folder = self.folder / str(len(self.plans))
        earlier = {"trained": [] if again else self.trained, "lineage_plans": self.plans}
        chosen = {"settings": self.settings, "allow_bad": self.allow_bad or None}
        job = f"j{len(self.plans)}"
        return make_spec(folder, list(rows), job=job, **chosen, **earlier)

    def train(
        self, rows: Sequence[Conversation], *, until: int | None = None, again: bool = False
    ) -> Plan:
        spec = self.spec(rows, again=again)
        plan = build_plan(spec, self.chat).plan
        ids = spec.plan_out.with_name("row_ids.bin")
        ids.write_bytes(sealed(records_of(line_of(row) for row in rows)))
        version = len(self.plans) + 1
        files = {"job": spec.job, "version": version, "row_ids": ids, "plan": spec.plan_out}
        position = len(plan.steps) if until is None else until
        self.trained.insert(0, {**files, "position": position})
        self.plans.insert(0, spec.plan_out)
        return plan


@pytest.fixture
def lineage(tmp_path: Path, chat: Chat) -> Lineage:
    return Lineage(tmp_path, chat)


def test_a_file_that_has_grown_trains_what_is_new(lineage: Lineage) -> None:
    old, new = tiny_conversations(300), tiny_conversations(20, start=300)
    first = lineage.train(old)
    assert (first.known, first.new_rows) == (None, 300)
    grown = [*new[:7], *old, *new[7:]]
    plan = lineage.train(grown)
    held = {grown.index(old[row]) for row in first.heldout_rows}
    assert set(plan.train_rows) == {*range(7), *range(307, 320)}
    assert plan.known == KnownRows(
        trained=plan.known.trained if plan.known else (),
        count=300 - len(held),
        held_out=len(held),
        jobs=(KnownFrom(job="j0", version=1, rows=300 - len(held)),),
    )
    # What was held out stays so and is measured, and what is trained now is watched.
    assert set(plan.heldout_rows) == held
    assert {p.row for p in plan.probes if p.split == "trained"} == set(plan.train_rows)
    assert plan.new_rows == 20
    assert plan.left_out == ()
    assert new_rows_text(plan.rows, plan.known) == "new: 20 of 320 rows"


def test_a_plan_with_known_rows_is_read_and_loaded_as_it_was_made(lineage: Lineage) -> None:
    rows = tiny_conversations(12)
    lineage.train(rows[:8])
    lineage.train(rows)
    spec = lineage.spec(rows).model_copy(update={"plan": lineage.plans[0], "job": "j1"})
    spec = spec.model_copy(update={"trained": (), "lineage_plans": ()})
    loaded = load_plan(spec, lineage.chat)
    assert loaded.plan.to_bytes() == lineage.plans[0].read_bytes()
    assert sorted(loaded.rows) == [8, 9, 10, 11]


def test_a_plan_without_known_rows_has_the_bytes_that_it_always_had(lineage: Lineage) -> None:
    lineage.train(tiny_conversations(8))
    lineage.train(tiny_conversations(8, start=8))
    assert b'"known"' not in lineage.plans[0].read_bytes()


def test_only_the_steps_that_were_kept_count(lineage: Lineage) -> None:
    rows = tiny_conversations(30)
    first = lineage.train(rows, until=2)
    begun = {row for step in first.steps[:2] for row in step}
    plan = lineage.train(rows)
    assert 0 < len(begun) < 30
    assert set(plan.train_rows) == set(range(30)) - begun
    # One step into the second epoch, all rows were trained at least once.
    lineage.trained = [{**lineage.trained[1], "position": len(first.batches[0]) + 1}]
    with pytest.raises(AllRowsKnown):
        lineage.train(rows)


def test_a_file_without_a_new_row_has_nothing_to_train(lineage: Lineage) -> None:
    rows = tiny_conversations(20)
    lineage.train(rows[:12])
    lineage.train(rows[12:])
    with pytest.raises(AllRowsKnown) as caught:
        lineage.train(rows[5:15])
    assert str(caught.value) == "All its 10 rows have already been trained: see v001, v002."
    assert caught.value.version == 2
    assert lineage.train(rows[5:15], again=True).train_rows == tuple(range(10))


def test_held_out_rows_alone_are_nothing_new(lineage: Lineage) -> None:
    rows = tiny_conversations(200)
    first = lineage.train(rows)
    held = [rows[row] for row in first.heldout_rows]
    with pytest.raises(AllRowsKnown, match="trained or are held out to be measured: see v001"):
        lineage.train([*held, rows[first.train_rows[0]]])


def test_rows_of_a_branch_that_a_rollback_left_are_new(lineage: Lineage) -> None:
    rows = tiny_conversations(20)
    lineage.train(rows[:10])
    lineage.train(rows)
    del lineage.trained[0]  # of the second job, only the plan is left
    plan = lineage.train(rows)
    assert plan.train_rows == tuple(range(10, 20))


def test_a_changed_answer_is_trained_and_named(lineage: Lineage) -> None:
    old = tiny_conversations(40)
    lineage.train(old)
    changed = [[*row[:-1], ("assistant", "I have changed my mind.")] for row in old[:25]]
    plan = lineage.train([*changed, *old[25:]])
    assert plan.train_rows == tuple(range(25))
    assert plan.known is not None
    assert (plan.known.count, plan.known.changed) == (15, 25)
    assert [c.row for c in plan.known.changed_rows] == list(range(20))
    assert {(c.job, c.version) for c in plan.known.changed_rows} == {("j0", 1)}
    assert new_rows_text(plan.rows, plan.known) == "new: 25 of 40 rows; 25 answers changed"
    # Beside the old answer, it is a second one.
    plan = lineage.train([*old, [*old[0][:-1], ("assistant", "Both are right.")]])
    assert plan.known is not None
    assert (plan.train_rows, plan.known.changed) == ((40,), 0)


def test_only_changed_answers_are_named_too(lineage: Lineage) -> None:
    (row,) = tiny_conversations(1)
    lineage.train([row])
    plan = lineage.train([[*row[:-1], ("assistant", "Another.")]])
    assert plan.known is not None
    assert new_rows_text(plan.rows, plan.known) == "new: 1 of 1 row; 1 answer changed"


def test_known_rows_take_little_room_in_a_plan(lineage: Lineage) -> None:
    rows = tiny_conversations(190)
    lineage.train(rows[::2])
    lineage.train(rows[1::2])
    plan = lineage.train([*rows, *tiny_conversations(1, start=190)])
    assert plan.known is not None
    assert plan.known.trained == ((0, 190),)
    assert [j.rows for j in plan.known.jobs] == [95, 95]


def test_rows_that_cannot_be_trained_beside_known_ones_are_still_a_failure(
    lineage: Lineage,
) -> None:
    rows = tiny_conversations(5)
    lineage.train(rows)
    long = [("user", "x" * 300), ("assistant", "y")]
    with pytest.raises(Exception, match="longer than 120 tokens; 5 rows have already been trained"):
        lineage.train([*rows, long])


def test_rows_that_were_left_out_before_are_not_new(lineage: Lineage) -> None:
    rows, long = tiny_conversations(9), [("user", "x" * 300), ("assistant", "y")]
    first = lineage.train([*rows[:5], long])
    assert [left.row for left in first.left_out] == [5]
    with pytest.raises(AllRowsKnown, match=r"All its 6 rows .* or were left out: see v001"):
        lineage.train([long, *rows[:5]])
    plan = lineage.train([long, *rows])
    assert (plan.new_rows, plan.train_rows) == (4, (6, 7, 8, 9))
    # It fits now, and is trained.
    lineage.settings = {**SETTINGS, "max_length": 500}
    plan = lineage.train([long, *rows])
    assert (plan.new_rows, plan.train_rows, plan.left_out) == (1, (0,), ())


def test_new_rows_that_may_be_bad_fail_no_job(lineage: Lineage) -> None:
    rows, bad = tiny_conversations(5), [("user", "x"), ("user", "y")]
    lineage.train(rows)
    with pytest.raises(CannotTrain, match="allow_bad"):
        lineage.train([*rows, bad])
    lineage.allow_bad = "1"
    with pytest.raises(AllRowsKnown, match="trained or were left out: see v001"):
        lineage.train([*rows, bad])


ONE = {"role": "assistant", "content": "1"}
ASKED = {"role": "user", "content": 'say {"role":"assistant" twice'}


@pytest.mark.parametrize(
    ("row", "like", "is_same"),
    [
        ({"messages": [ASKED, ONE]}, {"messages": [ASKED, {**ONE, "content": "2"}]}, True),
        ({"messages": [ASKED, ONE]}, {"messages": [ASKED, {**ONE, "weight": 0.5}]}, True),
        ({"messages": [ASKED, ONE]}, {"messages": [ASKED, ONE, ASKED, ONE]}, False),
        ({"messages": [ASKED, ONE, ASKED, ONE]}, {"messages": [ASKED, ONE, ASKED, ASKED]}, False),
        ({"messages": [ASKED, ONE]}, {"messages": [ASKED, ONE], "tools": [{"x": 1}]}, False),
        (
            {"messages": [ASKED, ONE], "tools": [{"x": 1}]},
            {"messages": [ASKED, {**ONE, "content": "2"}], "tools": [{"x": 1}]},
            True,
        ),
        (
            {"messages": [ASKED, ONE], "template_kwargs": {"x": 1}},
            {"messages": [ASKED, ONE], "template_kwargs": {"x": 2}},
            False,
        ),
    ],
)
def test_a_prompt_is_all_but_the_last_answer(row: Any, like: Any, is_same: bool) -> None:
    lines = [json.dumps(each, separators=(",", ":")).encode() for each in (row, like)]
    one, other = (ids_of(line)[1] for line in lines)
    assert NO_PROMPT not in (one, other)
    assert (one == other) is is_same


@pytest.mark.parametrize(
    "row", [{"text": "words"}, {"messages": [ONE, ASKED]}, {"messages": [ASKED]}]
)
def test_text_and_an_answer_to_nothing_have_no_prompt(row: Any) -> None:
    assert ids_of(json.dumps(row, separators=(",", ":")).encode())[1] == NO_PROMPT


def test_a_file_of_ids_proves_itself() -> None:
    lines = [line_of(c) for c in tiny_conversations(3)]
    data = sealed(records_of(lines))
    assert [row.hex() for row, _ in ids_in(opened(data))] == [row_id(x)[:32] for x in lines]
    assert ids_of(lines[0])[0].hex() == row_id(lines[0])[:32]
    for damaged in (data[:-1], data[1:], data + b"\0", b"", data[:40] + b"?" + data[41:]):
        with pytest.raises(ValueError, match="damaged"):
            opened(damaged)
    assert len(opened(data)) == 3 * RECORD.size


def test_ranges_and_words() -> None:
    assert list(ranges([])) == []
    assert list(ranges([0, 1, 4, 6, 7])) == [(0, 2), (4, 5), (6, 8)]
    known = KnownRows(count=1, jobs=(KnownFrom(job="3f9a.1", version=None, rows=1),))
    assert nothing_new_text(1, known) == "its only row has already been trained: see job 3f9a.1"
