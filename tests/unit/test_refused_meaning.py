"""Preference data, pictures, trees and masks are refused by name, with the way out."""

from typing import Any

import pytest

from services.ingest.reading.row import RowLeftOut, RowOptions, canonical_row
from tests.unit.test_meaning import ANSWER, PAIR, USER, Row, read, refusal, talk

POSITIVE = RowOptions(only_positive=True)


BAD = [
    {"label": False}, {"label": 0}, {"label": "0"}, {"kto_tag": False}, {"is_correct": False},
    {"rejected_response": "No."}, {"rejected": "No.", "chosen": "Yes."}, {"winner": "model_a"},
    {"score_chosen": 7.0}, {"preference": 1},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD)
@pytest.mark.parametrize(
    "row", [PAIR, talk(USER, ANSWER), {"prompt": "Tea?", "completion": "Yes."}]
)
def test_preference_data_are_refused_with_the_way_out(row: Row, fields: Row) -> None:
    error = refusal({**row, **fields})
    assert error.rule == "preference"
    assert "only_positive: true" in error.message


@pytest.mark.parametrize("fields", [{"label": True}, {"label": 1}, {"kto_tag": "true"}])
def test_a_good_answer_is_learned(fields: Row) -> None:
    assert read({**PAIR, **fields}) == read(PAIR)


CHOSEN: list[Row] = [
    {"prompt": "Tea?", "chosen": "Yes, please.", "rejected": "No."},
    {"prompt": "Tea?", "chosen": talk(USER, ANSWER)["messages"], "rejected": [], "score_chosen": 9},
    {"chosen": [USER, ANSWER], "rejected": [USER, USER]},
    {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "No."}]},
    {"conversations": [{"from": "human", "value": "Tea?"}],
     "chosen": {"from": "gpt", "value": "Yes, please."}, "rejected": {"from": "gpt", "value": "N"}},
    talk(USER, ANSWER, rejected_response="No."),
    {**PAIR, "label": True},
    {**PAIR, "rejected": "No."},
]  # fmt: skip


@pytest.mark.parametrize("row", CHOSEN)
def test_only_positive_takes_the_chosen_answer(row: Row) -> None:
    assert read(row, POSITIVE) == talk(USER, ANSWER)


def test_only_positive_leaves_bad_answers_out() -> None:
    for row in ({**PAIR, "label": False}, {**talk(USER, ANSWER), "kto_tag": 0}):
        with pytest.raises(RowLeftOut):
            canonical_row(row, POSITIVE)


@pytest.mark.parametrize("label", [0, 1, 3, "pos"])
def test_a_class_label_is_refused_with_the_way_out(label: Any) -> None:
    error = refusal({"text": "A fine film.", "label": label})
    assert (error.field, error.rule) == ("label", "label")
    assert "columns:" in error.message
    row = read({"text": "A fine film.", "label": label}, RowOptions(ignore=("label",)))
    assert row == {"text": "A fine film."}


@pytest.mark.parametrize(
    "key", ["image", "images", "video", "videos", "audio", "audios", "image_url"]
)
def test_what_is_not_text_is_refused_by_its_name(key: str) -> None:
    for row in (PAIR, talk(USER, ANSWER), {"text": "<image> A bus."}):
        error = refusal({**row, key: ["a.jpg"]})
        assert (error.field, error.rule) == (key, "not_text")
        for neutral in (None, "", [], [None]):
            assert read({**row, key: neutral}) == read(row)
    error = refusal(talk({**USER, key: "a.jpg"}, ANSWER))
    assert (error.field, error.rule) == (f"messages[0].{key}", "not_text")


@pytest.mark.parametrize("part", ["image_url", "image", "input_audio", "video", "file"])
def test_a_part_that_is_not_text_is_refused_by_its_name(part: str) -> None:
    parts = [{"type": "text", "text": "See:"}, {"type": part, part: "x"}]
    error = refusal(talk({"role": "user", "content": parts}, ANSWER))
    assert (error.field, error.rule) == ("messages[0].content[1]", "not_text")
    assert repr(part) in error.message


TREES: list[Row] = [
    {
        "message_id": "a",
        "parent_id": None,
        "role": "prompter",
        "text": "Hi",
        "message_tree_id": "a",
    },
    {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "Hello."},
    {"message_tree_id": "a", "prompt": {"text": "Hi", "role": "prompter", "replies": []}},
]


@pytest.mark.parametrize("row", TREES)
def test_a_tree_is_refused_as_one(row: Row) -> None:
    assert refusal(row).rule == "tree"


@pytest.mark.parametrize("key", ["label_mask", "assistant_masks", "completion_mask", "loss_mask"])
def test_a_mask_of_tokens_is_refused(key: str) -> None:
    assert refusal(talk(USER, ANSWER, **{key: [0, 1, 1]})).field == key


def test_what_a_trainer_is_told_of_whole_rows_is_refused_unless_it_says_nothing_new() -> None:
    row = {"messages": [USER, ANSWER]}
    for key in ("mask_history", "train_on_inputs"):
        assert refusal({**row, key: True}).rule == "mask"
        assert read({**row, key: False}) == row
    assert read(
        {"question": "Tea?", "answer": "Yes.", "thinking_trajectories": ["Hm.", "So."]}
    ) == {
        "messages": [
            {"role": "user", "content": "Tea?"},
            {**ANSWER, "content": "Yes.", "reasoning_content": "Hm.\nSo."},
        ]
    }
