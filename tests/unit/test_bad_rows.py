"""Rows that only the template shows to be bad obey the limit of those found bad before."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.model.template import Chat
from services.trainer.protocol import Spec
from services.trainer.worker.data.plan import build_plan
from shared.errors import CannotTrain
from shared.files import sha256_bytes
from shared.formats.result import BAD_ROWS, BadRows
from tests import templates
from tests.tiny import CHATML, shared_tiny, tiny_conversations
from tests.unit.test_mask_families import make_base
from tests.unit.test_plan import CLOCK, make_spec

UPPER = CHATML.replace(
    "message['content']",
    "(message['content'] | upper if 'red' in message['content'] else message['content'])",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tokenizer"))


def talk(number: int, system: bool = False, **answer: Any) -> dict[str, Any]:
    said = [{"role": "system", "content": "Be short."}] if system else []
    said += [{"role": "user", "content": f"Q{number}?"}]
    return {"messages": [*said, {"role": "assistant", "content": f"A{number}.", **answer}]}


def spec_of(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Spec:
    made = make_spec(folder, tiny_conversations(1))
    lines = [json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows]
    made.dataset.write_bytes(b"".join(lines))
    # In the original each row stands two lines further down.
    source = folder / "source.jsonl"
    source.write_text(
        "".join(f'{{"layout":"messages","line":{n + 3}}}\n' for n in range(len(rows)))
    )
    sha256 = sha256_bytes(b"".join(lines))
    return made.model_copy(update={"dataset_sha256": sha256, "source": source, **changes})


def failure(spec: Spec, chat: Chat) -> CannotTrain:
    with pytest.raises(CannotTrain) as caught:
        build_plan(spec, chat)
    assert not spec.plan_out.exists()
    return caught.value


def test_a_file_whose_system_turns_the_template_refuses_says_what_to_do(
    base: Path, tmp_path: Path
) -> None:
    chat = Chat(base, CLOCK, templates.GEMMA)
    for rows, count in (
        ([talk(n, system=True) for n in range(6)], "6 of 6 rows are bad"),
        ([talk(n, system=n < 3) for n in range(6)], "3 of 6 rows are bad"),
    ):
        error = failure(spec_of(tmp_path, rows), chat)
        assert error.kind == "template"
        assert not error.suspect
        assert error.message.startswith(count)
        assert "line 3: the chat template refuses it: System role not supported" in error.message
        assert "--chat-template gemma" in error.message
        assert "`system: merge_into_user`" in error.message
        assert "allow_bad" in error.message


# allow_bad -> whether two bad rows of ten are taken
LIMITS = {None: False, "1": False, "2": True, "10%": False, "20%": True}


@pytest.mark.parametrize("limit", LIMITS)
def test_late_bad_rows_obey_the_limit_of_the_early_ones(
    limit: str | None, base: Path, tmp_path: Path
) -> None:
    chat = Chat(base, CLOCK, templates.GEMMA)
    rows = [talk(n, system=n in (4, 7)) for n in range(10)]
    spec = spec_of(tmp_path, rows, allow_bad=limit)
    if not LIMITS[limit]:
        error = failure(spec, chat)
        assert "line 7" in error.message
        assert "line 10" in error.message
        assert limit is None or f"allow_bad: {limit}" in error.message
        return
    plan = build_plan(spec, chat).plan
    assert [(left.row, left.bad) for left in plan.left_out] == [(4, True), (7, True)]
    assert len(plan.train_rows) == 8


def test_rows_that_were_bad_when_the_file_was_read_count_with_those_found_later(
    base: Path, tmp_path: Path
) -> None:
    chat = Chat(base, CLOCK, templates.GEMMA)
    rows = [talk(n, system=n in (4, 7)) for n in range(10)]
    # before, limit, whether it covers them: 2 of 10 more rows are bad
    cases = [(1, "3", True), (1, "2", False), (10, "60%", True), (11, "61%", False)]
    for number, (before, limit, is_taken) in enumerate(cases):
        spec = spec_of(tmp_path / str(number), rows, allow_bad=limit, bad_before=before)
        if is_taken:
            assert build_plan(spec, chat).plan.left_out
            assert not spec.plan_out.with_name(BAD_ROWS).exists()
            continue
        error = failure(spec, chat)
        assert f"{before} more were bad when it was read" in error.message
        assert BadRows.from_bytes(spec.plan_out.with_name(BAD_ROWS).read_bytes()).rows == (4, 7)


def test_a_wrong_mask_of_one_row_is_a_bad_row_and_of_all_rows_the_templates_fault(
    tmp_path: Path,
) -> None:
    chat = Chat(shared_tiny(), CLOCK, UPPER)
    good = [talk(n) for n in range(4)]
    wrong = {"messages": [*talk(9)["messages"][:1], {"role": "assistant", "content": "a red one"}]}
    spec = spec_of(tmp_path, [*good, wrong])
    error = failure(spec, chat)
    assert (error.kind, error.suspect) == ("data", False)
    assert "1 of 5 rows is bad" in error.message
    assert "line 7: The loss mask would be wrong" in error.message
    plan = build_plan(spec.model_copy(update={"allow_bad": "1"}), chat).plan
    assert [left.row for left in plan.left_out] == [4]
    error = failure(spec_of(tmp_path / "all", [wrong], allow_bad="50%"), chat)
    assert (error.kind, error.suspect) == ("mask", True)
    assert "the chat template or the tokenizer of this base is at fault" in error.message
    assert error.example is not None


UNLEARNED = {
    "weight": talk(1, weight=0),
    "spans": talk(1, spans=[]),
    "text": {"text": "words", "weight": 0},
    "first answer": {"messages": talk(1)["messages"][1:]},
}


@pytest.mark.parametrize("name", UNLEARNED)
def test_a_row_of_which_nothing_is_learned_is_bad(name: str, tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{% endif %}" + CHATML
    error = failure(
        spec_of(tmp_path, [talk(0), UNLEARNED[name]]), Chat(shared_tiny(), CLOCK, template)
    )
    assert "line 4: nothing to train" in error.message


@pytest.mark.parametrize("name", ["messages", "bos_token", "add_generation_prompt", "tools"])
def test_a_row_cannot_set_for_its_template_what_is_set_here(
    name: str, base: Path, tmp_path: Path
) -> None:
    rows = [{**talk(1), "template_kwargs": {name: "x"}}, talk(2)]
    error = failure(spec_of(tmp_path, rows), Chat(base, CLOCK, CHATML))
    assert f"template_kwargs cannot set {name}" in error.message


def test_a_bad_row_among_those_held_out_is_found_as_well(base: Path, tmp_path: Path) -> None:
    chat = Chat(base, CLOCK, templates.GEMMA)
    rows = [talk(n, system=n % 9 == 0) for n in range(260)]
    spec = spec_of(tmp_path, rows, allow_bad="50%")
    plan = build_plan(spec, chat).plan
    assert {left.row for left in plan.left_out if left.bad} == set(range(0, 260, 9))
    assert not set(plan.heldout_rows) & set(range(0, 260, 9))


def test_many_bad_rows_are_counted_and_the_first_are_named(base: Path, tmp_path: Path) -> None:
    chat = Chat(base, CLOCK, templates.GEMMA)
    error = failure(spec_of(tmp_path, [talk(n, system=True) for n in range(30)]), chat)
    assert "30 of 30 rows are bad" in error.message
    assert "… and 25 more" in error.message
