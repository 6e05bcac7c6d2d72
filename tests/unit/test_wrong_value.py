"""Why a value is refused is said in our own words, not in those of the library that checks it."""

from typing import Any

import pytest
from pydantic import ValidationError

from shared.protocol.records import JobSettings, LineageSettings, LineCreate
from shared.wrong_value import all_wrong, why_wrong

ROOT = "0" * 64


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"learning_rate": "fast"}, "it must be a number"),
        ({"learning_rate": -1}, "it must be greater than 0"),
        ({"epochs": 0}, "it must be at least 1"),
        ({"epochs": 2.5}, "it must be a whole number"),
        ({"on_long": "cut"}, "it must be one of 'set_aside', 'truncate' or 'refuse'"),
        ({"description": "x" * 600}, "it must have at most 500 characters"),
    ],
)
def test_a_wrong_value_is_refused_in_our_words(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSettings.model_validate(value)
    assert why_wrong(refused.value.errors()[0]) == words


def test_a_wrong_name_is_explained_without_a_regular_expression() -> None:
    with pytest.raises(ValidationError) as refused:
        LineCreate(by="x", prev=0, lineage="Maths", settings=LineageSettings(base_root=ROOT))
    told = all_wrong(refused.value.errors())
    assert told.startswith("lineage: it must begin with a small letter or a digit")
    assert "^" not in told
