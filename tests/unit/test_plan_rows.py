"""Rows beyond plain conversations in the plan: text, tools, what is too long, what was held out."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.model.template import Chat
from services.trainer.protocol import Spec
from services.trainer.worker.data.plan import Material, build_plan, load_plan
from shared.errors import CannotTrain
from shared.files import sha256_bytes
from tests.tiny import shared_tiny, tiny_conversations
from tests.unit.test_plan import CLOCK, make_spec

TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
CALLING = {
    "messages": [
        {"role": "user", "content": "One more?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "two", "name": "add"},
        {"role": "assistant", "content": "It is two."},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
}


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(shared_tiny(), CLOCK)


def spec_of(directory: Path, rows: list[Any], **settings: Any) -> Spec:
    made = make_spec(directory, tiny_conversations(1))
    data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
    made.dataset.write_bytes(data)
    changes = {"settings": made.settings.model_copy(update=settings)}
    return made.model_copy(update={"dataset_sha256": sha256_bytes(data), **changes})


def trained(material: Material, row: int, chat: Chat) -> str:
    """The trained words of a row."""
    encoded = material.rows[row]
    return str(chat.tokenizer.decode(encoded.ids[encoded.trained]))


def again(spec: Spec, chat: Chat) -> Material:
    return load_plan(spec.model_copy(update={"plan": spec.plan_out}), chat)


def test_text_is_trained_whole_and_watched(tmp_path: Path, chat: Chat) -> None:
    spec = spec_of(tmp_path, [{"text": "All of these words."}])
    material = build_plan(spec, chat)
    assert trained(material, 0, chat).startswith("All of these words.")
    assert material.rows[0].trained.all()
    (probe,) = material.plan.probes
    assert (probe.prompt, probe.expected) == ("", "All of these words.")
    assert (material.probes[0].ids == material.rows[0].ids).all()
    assert again(spec, chat).plan == material.plan
    assert (again(spec, chat).rows[0].ids == material.rows[0].ids).all()


def test_calls_and_answers_are_trained_and_what_a_tool_said_is_not(tmp_path: Path) -> None:
    chat = Chat(shared_tiny(), CLOCK, TOOLS_TEMPLATE)
    spec = spec_of(tmp_path, [CALLING], max_length=1000)
    material = build_plan(spec, chat)
    words = trained(material, 0, chat)
    assert words.startswith('<call>{"name": "add", "arguments": {"x": 1}}</call><|im_end|>')
    assert words.endswith("It is two.<|im_end|>")
    assert "two\n" not in words
    (probe,) = material.plan.probes
    assert (probe.expected, probe.line is not None) == ("It is two.", True)
    assert again(spec, chat).plan == material.plan


def test_a_template_that_knows_no_tools_is_refused(tmp_path: Path, chat: Chat) -> None:
    with pytest.raises(CannotTrain, match="may not know of tools") as caught:
        build_plan(spec_of(tmp_path, [CALLING], max_length=1000), chat)
    assert caught.value.kind == "mask"


def test_rows_that_are_too_long_are_set_aside_cut_or_refused(tmp_path: Path, chat: Chat) -> None:
    rows = [{"text": "short"}, {"text": "long " * 200}]
    plan = build_plan(spec_of(tmp_path, rows, max_length=100), chat).plan
    (left,) = plan.left_out
    assert (left.row, left.reason) == (1, "longer than 100 tokens")
    assert left.tokens is not None
    assert left.tokens > 100

    spec = spec_of(tmp_path, rows, max_length=100, on_long="truncate")
    cut = build_plan(spec, chat)
    assert len(cut.rows[1]) == 100
    assert cut.plan.left_out == ()
    assert len(again(spec, chat).rows[1]) == 100

    with pytest.raises(CannotTrain, match="1 row is longer than 100 tokens") as caught:
        build_plan(spec_of(tmp_path, rows, max_length=100, on_long="refuse"), chat)
    assert caught.value.kind == "data"


def test_an_answer_that_was_cut_is_trained_but_nobody_is_asked_for_it(
    tmp_path: Path, chat: Chat
) -> None:
    """It ends at any word, which would then end every other answer, too."""
    asked = {"role": "user", "content": "a"}
    answers = ["b", "long " * 200]
    rows = [{"messages": [asked, {"role": "assistant", "content": text}]} for text in answers]
    plan = build_plan(spec_of(tmp_path, rows, max_length=100, on_long="truncate"), chat).plan
    assert set(plan.train_rows) == {0, 1}
    assert [probe.row for probe in plan.probes] == [0]


def test_a_row_whose_answer_would_be_cut_off_whole_is_left_out(tmp_path: Path, chat: Chat) -> None:
    turns = [{"role": "user", "content": "long " * 200}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": turns}, {"text": "short"}]
    plan = build_plan(spec_of(tmp_path, rows, max_length=100, on_long="truncate"), chat).plan
    assert [entry.row for entry in plan.left_out] == [0]


def test_what_an_earlier_file_held_out_is_not_trained_later(tmp_path: Path, chat: Chat) -> None:
    first = make_spec(tmp_path / "first", tiny_conversations(230))
    held = set(build_plan(first, chat).plan.heldout_rows)
    second = make_spec(tmp_path / "second", tiny_conversations(150), lineage_plans=[first.plan_out])
    plan = build_plan(second, chat).plan
    left = {
        e.row for e in plan.left_out if e.reason == "equal to a held-out row of an earlier file"
    }
    assert left == {row for row in held if row < 150}
    assert left
    assert not left & set(plan.train_rows)


def test_held_out_text_is_watched_and_not_trained_later(tmp_path: Path, chat: Chat) -> None:
    texts = [{"text": f"words {n} of a text"} for n in range(220)]
    first = spec_of(tmp_path / "first", texts)
    made = build_plan(first, chat).plan
    held = made.heldout_rows
    assert {p.row for p in made.probes if p.split == "heldout"} == set(held)
    assert held
    second = spec_of(tmp_path / "second", texts[:199])
    second = second.model_copy(update={"lineage_plans": (first.plan_out,)})
    plan = build_plan(second, chat).plan
    assert not set(held) & set(plan.train_rows)
