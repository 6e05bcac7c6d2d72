"""Every key that changes what a row means is used, or refused by its name."""

import json
from typing import Any

import pytest

from services.ingest.reading.row import RowError, RowOptions, canonical_row
from services.ingest.reading.rows import meaning

Row = dict[str, Any]
USER = {"role": "user", "content": "Tea?"}
ANSWER = {"role": "assistant", "content": "Yes, please."}
PAIR = {"question": "Tea?", "answer": "Yes, please."}


def read(row: Row, options: RowOptions | None = None) -> Row:
    found: Row = json.loads(canonical_row(row, options or RowOptions()).line)
    return found


def refusal(row: Row) -> RowError:
    with pytest.raises(RowError) as caught:
        canonical_row(row)
    return caught.value


def talk(*turns: Row, **fields: Any) -> Row:
    return {"messages": [*turns], **fields}


def answered(**keys: Any) -> Row:
    """A conversation of two answers, the first one with these keys."""
    return talk(USER, {**ANSWER, **keys}, USER, {"role": "assistant", "content": "Milk."})


def said(row: Row) -> list[str]:
    """The words of all turns."""
    return [turn["content"] for turn in read(row)["messages"]]


# ---- which answers are learned -------------------------------------------------------------------

WEIGHTS: list[tuple[Row, float | None]] = [
    ({"weight": 0}, 0),
    ({"weight": 1}, None),
    ({"weight": 0.25}, 0.25),
    ({"weight": "0.5"}, 0.5),
    ({"weight": False}, 0),
    ({"weight": None}, None),
    ({"weight": ""}, None),
    ({"Weight": 0}, 0),
    ({"train": False}, 0),
    ({"train": True}, None),
    ({"train": "no"}, 0),
    ({"train_on_turn": False}, 0),
    ({"training": False}, 0),
    ({"trainOnTurn": False}, 0),
    ({"trainable": False}, 0),
    ({"loss": False}, 0),
    ({"loss": True}, None),
    ({"loss_mask": 0}, 0),
    ({"loss_mask": 1}, None),
    ({"loss_weight": 0.5}, 0.5),
    ({"loss_scale": 0.5, "weight": 0.5}, 0.25),
    ({"masked": True}, 0),
    ({"masked": False}, None),
    ({"no_loss": True}, 0),
    ({"train": True, "weight": 0}, 0),
    ({"train_detail": []}, None),
]


@pytest.mark.parametrize(("keys", "weight"), WEIGHTS)
def test_a_weight_of_a_turn_is_kept(keys: Row, weight: float | None) -> None:
    row = canonical_row(answered(**keys))
    assert json.loads(row.line)["messages"][1].get("weight") == weight
    assert row.ignored == ()


@pytest.mark.parametrize("key", ["weight", "train", "loss", "loss_mask", "masked", "loss_weight"])
@pytest.mark.parametrize("value", [1.5, -1, 2, "much", [1, 0], {"a": 1}, float("nan")])
def test_another_weight_is_refused_by_its_name(key: str, value: Any) -> None:
    error = refusal(answered(**{key: value}))
    assert (error.field, error.rule) == (f"messages[1].{key}", "weight")


def test_the_weight_of_a_row_is_multiplied_into_its_answers() -> None:
    turns = read({**answered(weight=0.5), "sample_weight": 0.5})["messages"]
    assert [turn.get("weight") for turn in turns] == [None, 0.25, None, 0.5]
    assert read({"text": "Once.", "weight": 0.5}) == {"text": "Once.", "weight": 0.5}
    assert read({**PAIR, "weight": 1.0}) == read(PAIR)


def detail(begin: int, end: int, train: bool = True) -> Row:
    return {"begin_offset": begin, "end_offset": end, "train": train}


SPANS: list[tuple[list[Row], list[list[int]] | None]] = [
    ([detail(0, 2)], [[0, 3]]),  # the last character is included
    ([detail(0, 3, train=False), detail(5, 11)], [[5, 12]]),
    ([detail(5, 11), detail(0, 4)], None),  # all of it
    ([detail(0, 12)], None),
    ([detail(0, 2), detail(8, 9), detail(1, 4)], [[0, 5], [8, 10]]),
]


@pytest.mark.parametrize(("details", "spans"), SPANS)
def test_a_part_of_an_answer_is_learned(details: list[Row], spans: Any) -> None:
    for key in ("train_detail", "training_detail"):
        answer = read(talk(USER, {**ANSWER, key: details}))["messages"][1]
        assert (answer.get("spans"), "weight" in answer) == (spans, False)


@pytest.mark.parametrize("parts", ["x", [1], [detail(3, 1)], [detail(0, 99)], [{"train": True}]])
def test_a_part_outside_the_answer_is_refused(parts: Any) -> None:
    assert refusal(talk(USER, {**ANSWER, "train_detail": parts})).rule == "spans"


@pytest.mark.parametrize(
    "row",
    [
        talk(USER, {**ANSWER, "weight": 0}),
        talk(USER, ANSWER, weight=0),
        talk(USER, {**ANSWER, "train_detail": [detail(0, 2, train=False)]}),
        {**PAIR, "weight": 0},
        {**PAIR, "train": False},
        {"text": "Once.", "weight": 0.0},
    ],
)
def test_a_row_in_which_nothing_is_learned_is_refused(row: Row) -> None:
    assert refusal(row).rule == "nothing_trained"


def test_what_a_user_says_is_never_learned() -> None:
    assert refusal(talk({**USER, "train": True}, ANSWER)).rule == "trained_question"
    assert read(talk({**USER, "train": False, "weight": 1}, ANSWER)) == read(talk(USER, ANSWER))


# ---- what is said beside the words ---------------------------------------------------------------


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought", "COT"])
def test_a_thought_is_kept(key: str) -> None:
    turn = {**ANSWER, "reasoning_content": "Thirsty."}
    for thought in (
        "Thirsty.",
        "<think>\nThirsty.\n</think>",
        [{"type": "text", "text": "Thirsty."}],
    ):
        assert read(talk(USER, {**ANSWER, key: thought}))["messages"][1] == turn
    assert read({**PAIR, key: "Thirsty."})["messages"][1] == turn
    assert read(talk(USER, ANSWER, **{key: "Thirsty."}))["messages"][1] == turn
    assert read({**PAIR, key: ""}) == read({**PAIR, key: None}) == read(PAIR)
    assert read({**PAIR, key: "off"}) == read(PAIR)  # a switch


def test_a_thought_in_the_words_stays_there() -> None:
    words = "<think>\nThirsty.\n</think>\n\nYes."
    turn = {"role": "assistant", "content": words}
    assert read(talk(USER, turn)) == talk(USER, turn)
    assert read(talk(USER, {**turn, "reasoning": "Thirsty."})) == talk(USER, turn)
    assert refusal(talk(USER, {**turn, "reasoning": "Cold."})).rule == "two_thoughts"
    assert refusal(answered(reasoning="a", thinking="b")).rule == "two_thoughts"
    assert refusal(talk({**USER, "thinking": "a"}, ANSWER)).rule == "not_used"
    assert refusal({**answered(), "thinking": "a"}).rule == "not_used"


HISTORIES = [
    [["Hi", "Hello."], ["How?", "Well."]],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
     {"from": "human", "value": "How?"}, {"from": "gpt", "value": "Well."}],
    [{"question": "Hi", "answer": "Hello."}, {"user": "How?", "bot": "Well."}],
    ["Hi", "Hello.", "How?", "Well."],
    '[["Hi", "Hello."], ["How?", "Well."]]',
]  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_a_history_becomes_turns(history: Any) -> None:
    words = ["Hi", "Hello.", "How?", "Well.", "Tea?", "Yes, please."]
    assert said({**PAIR, "history": history}) == words
    assert said({"query": "Tea?", "response": "Yes, please.", "history": history}) == words


def test_a_history_that_is_not_one_is_refused() -> None:
    for history in ("Yesterday.", [["a", "b", "c"]], {"a": 1}):
        assert refusal({**PAIR, "history": history}).rule in ("history", "missing_field")
    assert read({**PAIR, "history": []}) == read({**PAIR, "history": None}) == read(PAIR)


@pytest.mark.parametrize("key", ["system", "system_prompt", "systemPrompt", "System Prompt"])
@pytest.mark.parametrize(
    "row", [PAIR, talk(USER, ANSWER), {"prompt": [USER], "completion": [ANSWER]}]
)
def test_a_system_prompt_is_the_first_turn(key: str, row: Row) -> None:
    with_system = read({**row, key: "Be brief."})["messages"]
    assert with_system == [{"role": "system", "content": "Be brief."}, *read(row)["messages"]]
    assert read({**row, key: ""}) == read({**row, key: None}) == read(row)


def test_a_system_prompt_that_is_the_first_turn_already_is_not_repeated() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert read(talk(system, USER, ANSWER, system="Be brief.")) == talk(system, USER, ANSWER)
    two = read(talk(system, USER, ANSWER, system="Be kind."))["messages"]
    assert [turn["content"] for turn in two[:2]] == ["Be kind.", "Be brief."]


TOOL = {"type": "function", "function": {"name": "kettle"}}


@pytest.mark.parametrize(
    "tools", [[TOOL], [TOOL["function"]], json.dumps([TOOL]), [json.dumps(TOOL)]]
)
def test_tools_are_kept_wherever_they_stand(tools: Any) -> None:
    system = {"role": "system", "content": "Serve."}
    for key in ("tools", "functions"):
        assert read(talk(USER, ANSWER, **{key: tools}))["tools"] == [TOOL]
        assert read(talk({**system, key: tools}, USER, ANSWER))["tools"] == [TOOL]
        assert read({**PAIR, key: tools})["tools"] == [TOOL]
    other = [{"type": "function", "function": {"name": "oven"}}]
    assert refusal(talk({**system, "tools": other}, USER, ANSWER, tools=tools)).rule == "tools"
    assert "tools" not in read(talk(USER, ANSWER, tools=[]))


def test_options_of_the_template_are_kept() -> None:
    for value in ({"enable_thinking": False, "x": None}, '{"enable_thinking": false}'):
        row = read(talk(USER, ANSWER, chat_template_kwargs=value))
        assert row["template_kwargs"] == {"enable_thinking": False}
    assert read({**PAIR, "enable_thinking": True})["template_kwargs"] == {"enable_thinking": True}
    assert read({**PAIR, "chat_template_kwargs": {}}) == read(PAIR)
    error = refusal({**PAIR, "chat_template_kwargs": {"tokenize": True}})
    assert (error.field, error.rule) == ("chat_template_kwargs", "template_kwargs")


CONTEXTS: list[tuple[Any, str]] = [
    ("It is 5 o'clock.", "It is 5 o'clock."),
    (["One.", "Two."], "One.\n\nTwo."),
    ([{"title": "Time", "text": "5."}, {"content": "Two."}], "Time\n5.\n\nTwo."),
    ('["One.", "Two."]', "One.\n\nTwo."),
]


@pytest.mark.parametrize("key", ["context", "passage", "documents", "background", "document"])
@pytest.mark.parametrize(("value", "words"), CONTEXTS)
def test_a_context_stands_before_the_question(key: str, value: Any, words: str) -> None:
    question = f"{words}\n\nTea?"
    assert said({**PAIR, key: value})[0] == question
    assert said({"instruction": "Tea?", "response": "Yes.", key: value})[0] == question
    assert said(talk(USER, ANSWER, USER, ANSWER, **{key: value}))[0] == question
    assert said(talk({**USER, key: value}, ANSWER))[0] == question
    assert said({**PAIR, key: []}) == said({**PAIR, key: None}) == said(PAIR)
    assert said({**PAIR, "question": question, key: value})[0] == question  # is there already


CHOICES: list[tuple[Row, str, str]] = [
    ({"choices": ["car", "pear"], "answer": "B"}, "A. car\nB. pear", "B. pear"),
    ({"choices": ["car", "pear"], "answer": 1}, "A. car\nB. pear", "B. pear"),
    ({"options": ["car", "pear"], "answer": "pear"}, "A. car\nB. pear", "B. pear"),
    ({"options": ["A) car", "B) pear"], "correct": "A"}, "A. car\nB. pear", "A. car"),
    ({"options": {"A": "car", "B": "pear"}, "answer": "(B)"}, "A. car\nB. pear", "B. pear"),
    ({"choices": {"text": ["car", "pear"], "label": ["1", "2"]}, "answerKey": "2"},
     "1. car\n2. pear", "2. pear"),
    ({"choices": [{"label": "A", "text": "car"}, {"label": "B", "text": "pear"}], "answerKey": "A"},
     "A. car\nB. pear", "A. car"),
    ({"A": "car", "B": "pear", "answer": "B"}, "A. car\nB. pear", "B. pear"),
    ({"opa": "car", "opb": "pear", "cop": 1}, "A. car\nB. pear", "B. pear"),
    ({"option1": "car", "option2": "pear", "answer": "2"}, "1. car\n2. pear", "2. pear"),
    ({"choices": ["car", "pear"], "label": 0}, "A. car\nB. pear", "A. car"),
    ({"choices": ["3", "4"], "answer": 4}, "A. 3\nB. 4", "B. 4"),
    ({"choices": '["car", "pear"]', "answer": "Pear, since it grows."}, "A. car\nB. pear",
     "Pear, since it grows."),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "choices", "answer"), CHOICES)
def test_choices_stand_behind_the_question(fields: Row, choices: str, answer: str) -> None:
    assert said({"question": "A fruit?", **fields}) == [f"A fruit?\n\n{choices}", answer]


@pytest.mark.parametrize("answer", ["D", 7, -1, "9"])
def test_an_answer_that_is_no_choice_is_refused(answer: Any) -> None:
    row = {"question": "A fruit?", "choices": ["car", "pear"], "answer": answer}
    assert refusal(row).rule == "choices"


ANSWERS: list[tuple[Row, str]] = [
    ({"answers": {"text": ["in 1987", "1987"], "answer_start": [3, 6]}}, "in 1987"),
    ({"answers": ["in 1987", "1987"]}, "in 1987"),
    ({"answers": [{"text": "in 1987"}]}, "in 1987"),
    ({"answer": ["in 1987"]}, "in 1987"),
    ({"answer": {"value": "in 1987", "aliases": ["1987"]}}, "in 1987"),
    ({"answer": True}, "true"),
    ({"answer": 12}, "12"),
]


@pytest.mark.parametrize(("fields", "answer"), ANSWERS)
def test_the_first_of_equal_answers_is_learned(fields: Row, answer: str) -> None:
    assert said({"question": "When?", **fields}) == ["When?", answer]


# ---- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(meaning.OF_ROWS))
def test_a_key_of_the_table_is_never_ignored(key: str) -> None:
    """It is used, so that other bytes are stored, or the row is refused."""
    for row in (PAIR, talk(USER, ANSWER), {"text": "Tea? Yes, please."}):
        try:
            found = canonical_row({**row, key: {"strange": "thing"}})
        except RowError:
            continue
        assert key not in found.ignored
        assert found.line != canonical_row(row).line


def test_a_harmless_key_is_ignored_and_named() -> None:
    assert canonical_row({**PAIR, "id": 7, "source": "x", "score": 0.5}).ignored == (
        "id",
        "score",
        "source",
    )
