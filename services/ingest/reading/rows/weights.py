"""Which answers are learned, and how much: weights, flags and spans, as trainers write them."""

from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.fields import Fields
from services.ingest.reading.rows.meaning import (
    TURN_DETAIL,
    TURN_FLAGS,
    TURN_MASKED,
    TURN_WEIGHTS,
    WEIGHT_KEYS,
)

FLAGS = {"true": 1, "false": 0, "yes": 1, "no": 0}

Span = list[int]


def weight_of(value: Any, where: str) -> float:
    """Return a weight from 0 to 1. Raises RowError."""
    found = number_of(value)
    if found is None:
        message = (
            f"It says how much is learned, and must be a number from 0 to 1, or true or false; "
            f"this is {kind(value)}."
        )
        raise RowError(where, "weight", message)
    if not 0 <= found <= 1:
        message = (
            f"A weight must be from 0 to 1; this is {str(value)[:40]}. Divide all weights by the "
            "largest one."
        )
        raise RowError(where, "weight", message)
    return found


def number_of(value: Any) -> float | None:
    """Return a number or a flag as a number, also from text, as tables have it; else None."""
    if isinstance(value, int | float):
        return float(value)
    if type(value) is str:
        if value.strip().lower() in FLAGS:
            return FLAGS[value.strip().lower()]
        try:
            return float(value)
        except ValueError:
            return None
    return None


def turn_weight(fields: Fields, where: str) -> float:
    """Return the weight that an assistant's turn says, 1 if it says none. Raises RowError."""
    weight = 1.0
    for name, value in fields.take_said((*TURN_FLAGS, *TURN_WEIGHTS)):
        weight *= weight_of(value, f"{where}.{name}")
    for name, value in fields.take_said(TURN_MASKED):
        weight *= 1 - weight_of(value, f"{where}.{name}")
    return weight


def check_untrained(fields: Fields, where: str, role: str) -> None:
    """Check that a turn which is not an answer does not ask to be learned. Raises RowError."""
    for name, value in fields.take_said(TURN_FLAGS):
        if weight_of(value, f"{where}.{name}"):
            message = (
                f"`{name}` asks to learn what a {role} turn says. Only answers of the assistant "
                "are learned: set it to false, or leave it out."
            )
            raise RowError(f"{where}.{name}", "trained_question", message)
    fields.drop((*TURN_WEIGHTS, *TURN_MASKED, *TURN_DETAIL))


def spans_of(fields: Fields, content: str, where: str) -> list[Span] | None:
    """Return the parts of an answer that are learned, [start, end) in characters.

    None means all of it. They come from axolotl's `train_detail`, whose `end_offset` is the last
    character; what no entry names is not learned. Raises RowError.
    """
    for name, value in fields.take_said(TURN_DETAIL):
        if type(value) is not list:
            message = f"It must be a list of parts of the answer; this is {kind(value)}."
            raise RowError(f"{where}.{name}", "spans", message)
        found = [
            detail_span(part, len(content), f"{where}.{name}[{n}]") for n, part in enumerate(value)
        ]
        whole = without_overlap(sorted(span for span in found if span is not None))
        return None if whole == [[0, len(content)]] else whole
    return None


def detail_span(part: Any, length: int, where: str) -> Span | None:
    """Return one part [start, end), or None if it is not learned. Raises RowError."""
    begin = part.get("begin_offset") if type(part) is dict else None
    end = part.get("end_offset") if type(part) is dict else None
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
        message = (
            'A part must be {"begin_offset": 0, "end_offset": 8, "train": true}, in characters '
            "of the answer, the last one included."
        )
        raise RowError(where, "spans", message)
    if begin >= length or end > length:  # `end` may be written as an exclusive one
        message = f"The part ends at character {end}, but the answer has {length} characters."
        raise RowError(where, "spans", message)
    if not weight_of(part.get("train", True), f"{where}.train"):
        return None
    return [begin, min(end + 1, length)]


def without_overlap(spans: list[Span]) -> list[Span]:
    """Return sorted spans with those merged that touch or overlap."""
    found: list[Span] = []
    for start, end in spans:
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([start, end])
    return found


def row_weight(fields: Fields) -> float:
    """Return the weight of a whole row, 1 if it says none. Raises RowError."""
    weight = 1.0
    for name, value in fields.take_said(WEIGHT_KEYS):
        if type(value) is list:
            message = (
                f"`{name}` is a list. Weights belong to the turns: write `weight` into each "
                "assistant turn."
            )
            raise RowError(name, "weight", message)
        if name.lower() == "loss" and not isinstance(value, bool):
            message = (
                f"`{name}` is {kind(value)}: it may be a weight, or a loss that was measured. "
                "Name it `weight`, or put `columns: {ignore: loss}` into the sidecar."
            )
            raise RowError(name, "weight", message)
        found = weight_of(value, name)
        weight *= 1 - found if name.lower() == "masked" else found
    return weight


def put_weight(turn: dict[str, Any], weight: float) -> None:
    """Write a weight into a canonical answer, where it is left out at 1."""
    if weight != 1:
        turn["weight"] = int(weight) if weight in (0, 1) else weight
