"""What is counted of a sample of rows, and what is said of it that usually goes unseen."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.worker.data.encoder import NOTHING_TRAINED
from services.trainer.worker.dropped import DROPPABLE
from services.trainer.worker.sample import (
    END_TOKENS,
    SampleRequest,
    percentile,
    sample_answer,
)
from shared.answers.trainer import RowsPreviewed
from shared.formats.dataset import CanonicalRow
from tests import templates
from tests.tiny import CHATML, line_of, shared_tiny, tiny_conversations
from tests.unit.test_mask import CLOCK, TURNS
from tests.unit.test_mask_families import make_base

ROWS = [line_of(talk).decode() for talk in tiny_conversations(30)]
TALK = line_of(TURNS[:3]).decode()
LONG = line_of([("user", "long"), ("assistant", "word " * 600)]).decode()
FEW = "{% for m in messages %}{% if m['role'] in ['user', 'assistant'] %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # noqa: E501 - one template
TOOL = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def row(*turns: dict[str, Any], **more: Any) -> str:
    return json.dumps({"messages": turns, **more})


ASKED, SAID = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("sampled"))


def look(rows: list[str], base: Path | None = None, **changes: Any) -> RowsPreviewed:
    fields: dict[str, Any] = {
        "base_dir": base or shared_tiny(),
        "chat_template": CHATML if base else None,
        "clock": CLOCK,
        "rows": rows,
        "shown": min(3, len(rows)),
        "max_length": 200,
        "on_long": "set_aside",
        "count_seconds": 60.0,
        **changes,
    }
    found = sample_answer(SampleRequest.model_validate(fields))
    own = {"lineage": "main", "max_length": fields["max_length"], "on_long": fields["on_long"]}
    return RowsPreviewed.model_validate({**own, **json.loads(json.dumps(found))})


def test_rows_are_shown_as_the_model_reads_them_and_all_are_counted() -> None:
    found = look([*ROWS, LONG])
    (sequence,) = found.shown[0].sequences
    assert "".join(t.text for t in sequence.head).startswith("<|im_start|>user\nWhat is")
    assert "".join(t.text for t in sequence.head if t.trained) == "red-0<|im_end|>"
    assert sequence.tail == []
    assert (found.counted, found.fit, found.too_long) == (31, 30, 1)
    assert [(u.reason, u.rows, u.first) for u in found.unfit] == [("longer than 200 tokens", 1, 30)]
    assert found.length_50 is not None
    assert found.length_max is not None
    assert found.length_50 < 200 < found.length_max
    assert found.unseen == []
    assert 0 < found.trained < found.tokens


def test_a_long_row_is_shown_by_its_ends() -> None:
    found = look([LONG])
    (sequence,) = found.shown[0].sequences
    assert found.shown[0].left_out == "longer than 200 tokens"
    assert len(sequence.head) == len(sequence.tail) == END_TOKENS
    assert sequence.tokens > 2 * END_TOKENS
    assert sequence.head[0].text == "<|im_start|>"
    assert sequence.tail[-1].text == "\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row(ASKED), "nothing to train: no assistant message"),
        (row(ASKED, {**SAID, "content": ""}), None),
        ("{}", "'messages'"),
        ("[1]", None),
        ('{"messages": [{"role": "nobody", "content": ""}]}', None),
    ],
)
def test_a_row_that_would_not_be_trained_never_ends_the_count(
    line: str, reason: str | None
) -> None:
    found = look([line, *ROWS[:2]])
    assert found.counted == 3
    assert found.fit >= 2
    if reason is not None:
        assert [u.reason for u in found.unfit] == [reason]


def test_a_row_without_a_trained_token_is_told() -> None:
    found = look(['{"text": ""}', row(ASKED, {**SAID, "weight": 0}), TALK])
    assert [(u.reason, u.rows, u.first) for u in found.unfit] == [(NOTHING_TRAINED, 2, 0)]
    assert found.shown[1].left_out == NOTHING_TRAINED


def test_only_what_a_weight_and_spans_leave_is_marked_as_trained() -> None:
    half = {**SAID, "content": "one two", "spans": [[4, 7]]}
    (sequence,) = look([row(ASKED, {**SAID, "weight": 0}, ASKED, half)]).shown[0].sequences
    assert "".join(t.text for t in sequence.head if t.trained) == "two<|im_end|>"


@pytest.mark.parametrize(
    ("kind", "template", "line", "rows"),
    [
        ("no_stop", templates.LLAMA3, TALK, (1, 1)),
        ("double_bos", CHATML, '{"text": "<s>words"}', (1, 1)),
        ("header", CHATML, row(ASKED, {**SAID, "content": "x <|im_start|> y"}), (1, 1)),
        ("system", FEW, TALK, (1, 1)),
        ("tools", CHATML, row(ASKED, SAID, tools=TOOL), (1, 1)),
        ("tool_result", FEW, row(ASKED, SAID, {"role": "tool", "content": "3"}, SAID), (1, 1)),
    ],
)
def test_what_usually_goes_unseen_is_said(
    base: Path, kind: str, template: str, line: str, rows: tuple[int, int]
) -> None:
    found = look([line], base, chat_template=template)
    assert [(u.kind, u.rows, u.of) for u in found.unseen] == [(kind, *rows)], found.unfit


def test_rows_that_are_cut_are_told() -> None:
    found = look([LONG], on_long="truncate")
    assert [(u.kind, u.rows) for u in found.unseen] == [("cut", 1)]
    assert (found.fit, found.too_long) == (1, 1)


def test_a_base_without_a_template_gives_the_same_reason_for_all_rows(base: Path) -> None:
    found = look(ROWS, base, chat_template=None)
    assert ([u.rows for u in found.unfit], found.bad) == ([30], 0)
    assert "--chat-template" in found.unfit[0].reason
    assert found.length_50 is None
    assert found.shown[0].failed is not None


def test_counting_ends_in_time_and_says_how_far_it_came() -> None:
    assert look(ROWS, count_seconds=0.0).counted == 3


def test_a_part_that_is_not_there_cannot_be_dropped() -> None:
    plain = CanonicalRow.parse(row(ASKED, SAID).encode())
    assert [part.without(plain) for part in DROPPABLE.values()] == [None] * 4
    thought = CanonicalRow.parse(row(ASKED, {**SAID, "reasoning_content": "so"}).encode())
    without = DROPPABLE["thought"].without(thought)
    assert without is not None
    assert without.messages == plain.messages


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.95, 4), (1.0, 4)])
def test_percentiles_are_lengths_that_occur(share: float, expected: int) -> None:
    assert percentile([1, 2, 3, 4], share) == expected
    assert percentile([7], share) == 7
    assert percentile([], share) is None
