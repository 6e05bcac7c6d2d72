"""Preference data: answers that were compared or judged. Only the good ones can be learned."""

from typing import Any

from services.ingest.reading.row_error import RowError
from services.ingest.reading.rows.context import has_choices
from services.ingest.reading.rows.fields import Fields, fold, is_neutral
from services.ingest.reading.rows.meaning import (
    ANSWER_KEYS,
    ASKED_KEYS,
    CHOSEN_KEYS,
    COMPARED_KEYS,
    CONVERSATIONS,
    INPUT_KEY,
    REJECTED_KEYS,
    TEXT_KEY,
    VERDICT_KEYS,
)
from services.ingest.reading.rows.roles import ROLE_KEYS, role_of
from services.ingest.reading.rows.words import list_in

GOOD_WORDS = frozenset({"true", "1", "yes", "good", "desirable", "chosen", "correct", "accepted"})
BAD_WORDS = frozenset({"false", "0", "no", "bad", "undesirable", "rejected", "incorrect"})
WAY_OUT = "To learn only the good answers, put `only_positive: true` into the sidecar."


class RowLeftOut(Exception):
    """A row is left out, as its sidecar wishes: its answer is marked as bad."""


def settle(fields: Fields, *, only_positive: bool) -> None:
    """Take the good answer of a row, or refuse the row. Raises RowError, RowLeftOut."""
    is_text = TEXT_KEY in fields and not is_answered(fields)
    for name, value in verdicts(fields) if is_text or is_answered(fields) else ():
        good = None if is_text else judged(value)
        if good is None:
            raise class_label(name, value)
        if good:
            continue
        if only_positive:
            raise RowLeftOut
        message = f"`{name}` marks this answer as a bad one: this is preference data. {WAY_OUT}"
        raise RowError(name, "preference", message)
    compared = fields.said((*CHOSEN_KEYS, *REJECTED_KEYS, *COMPARED_KEYS))
    if not compared:
        return
    if not only_positive:
        name = fields.written[compared[0]]
        message = f"`{name}` belongs to preference data, which Duramen does not train on. {WAY_OUT}"
        raise RowError(name, "preference", message)
    take_chosen(fields, compared)


def is_answered(fields: Fields) -> bool:
    """Return whether a row has an answer that could be judged."""
    return any(key in fields for key in (*ANSWER_KEYS, *CONVERSATIONS))


def verdicts(fields: Fields) -> list[tuple[str, Any]]:
    """Return (name, value) of the fields that judge the answer, not those that choose one."""
    found = []
    for key in fields.said(VERDICT_KEYS):
        if has_choices(fields) and not isinstance(fields.values[key], bool):
            continue  # the number of a choice
        fields.read.add(key)
        found.append((fields.written[key], fields.values[key]))
    return found


def judged(value: Any) -> bool | None:
    """Return whether a value says good or bad, or None if it says neither."""
    said = str(value).strip().lower()
    if said in ("1.0", "0.0"):
        said = said[0]
    return True if said in GOOD_WORDS else False if said in BAD_WORDS else None


def class_label(name: str, value: Any) -> RowError:
    """Return the error for a label that says neither good nor bad, but a class."""
    message = (
        f"`{name}` is {str(value)[:40]!r}: is it the answer, or may it be left out? Say so in "
        f'the sidecar: `columns: {{prompt: "text", answer: "{name}"}}` or '
        f"`columns: {{ignore: {name}}}`."
    )
    return RowError(name, "label", message)


def take_chosen(fields: Fields, compared: list[str]) -> None:
    """Make the chosen answer the one of the row. Raises RowError if none is chosen."""
    fields.drop((*CHOSEN_KEYS, *REJECTED_KEYS, *COMPARED_KEYS))
    good = next((key for key in fields.said((*CHOSEN_KEYS, fold("preferred_output")))), None)
    if good is None:
        if any(key in COMPARED_KEYS for key in compared):
            name = fields.written[next(key for key in compared if key in COMPARED_KEYS)]
            message = (
                f"`{name}` compares answers, but no field holds the better one. Write it as "
                "`completion` beside its `prompt`."
            )
            raise RowError(name, "preference", message)
        return  # the conversation is the good one
    name, value = fields.written[good], fields.values[good]
    value = list_in(value) or value
    talk = next(iter(fields.said(CONVERSATIONS)), None)
    for key in [key for key in fields.values if key in ANSWER_KEYS]:
        del fields.values[key]
    if type(value) is list and begins_anew(value):
        for key in (*CONVERSATIONS, *ASKED_KEYS, INPUT_KEY):
            fields.values.pop(key, None)
        fields.put(fold("messages"), value, name)
    elif talk is not None:
        turns = list_in(fields.values[talk]) or []
        if turns and is_answer(turns[-1]):
            turns = turns[:-1]
        last = value if type(value) is list else [value]
        last = [{"role": "assistant", "content": t} if type(t) is str else t for t in last]
        fields.put(talk, [*turns, *last], fields.written[talk])
        for key in ASKED_KEYS:
            fields.values.pop(key, None)
    else:
        fields.put(fold("completion"), [value] if type(value) is dict else value, name)


def begins_anew(turns: list[Any]) -> bool:
    """Return whether a chosen answer is a whole conversation, from its first turn on."""
    return not is_answer(turns[0]) if turns else False


def is_answer(turn: Any) -> bool:
    """Return whether a turn is an assistant's."""
    if type(turn) is not dict:
        return False
    speakers = [turn.get(key) for key in ROLE_KEYS if not is_neutral(turn.get(key))]
    return bool(speakers) and role_of(str(speakers[0])) == "assistant"
