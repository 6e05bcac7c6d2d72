"""Rows that ask and answer: what is asked, with all that belongs to it, and what is answered."""

from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.calls import are_calls, check_calls
from services.ingest.reading.rows.context import choices_of, chosen, in_context, with_choices
from services.ingest.reading.rows.fields import Fields, fold, is_neutral
from services.ingest.reading.rows.layouts import Layout
from services.ingest.reading.rows.meaning import (
    ANSWER_KEYS,
    CALL_KEYS,
    CHOICE_KEYS,
    HISTORY_KEYS,
    INPUT_KEY,
    TOOL_KEYS,
)
from services.ingest.reading.rows.notes import Notes
from services.ingest.reading.rows.thoughts import thought_of
from services.ingest.reading.rows.turns import (
    Turn,
    check_answered,
    check_order,
    read_turn,
    read_turns,
    without_empty_last,
)
from services.ingest.reading.rows.words import json_value, list_in, words_of

SEVERAL = fold("answers")


def pair_turns(fields: Fields, layout: Layout, notes: Notes) -> list[Turn]:
    """Return the turns of a row that asks and answers. Raises RowError."""
    earlier = [
        turn for name, value in fields.take_said(HISTORY_KEYS) for turn in rounds(value, name)
    ]
    found: list[Turn] = []
    for number, turn in enumerate(earlier):
        read_turn(turn, f"history[{number}]", found, notes)
    asked = asked_turns(fields, layout, notes)
    found += asked
    said = answer_turns(fields, layout, notes)
    if not any(turn["role"] != "user" for turn in said[:1]):
        message = f"`{fields.written[layout.answer]}` holds no assistant turn: nothing is learned."
        raise RowError(fields.written[layout.answer], "no_answer", message)
    found += said
    without_empty_last(found, "messages", notes)
    check_order(found, "messages")
    check_answered(found, "messages")
    return found


def rounds(value: Any, name: str) -> list[Turn]:
    """Return earlier rounds as turns, from pairs of words or from turns. Raises RowError."""
    listed = list_in(value)
    if listed is None:
        message = f"`{name}` must be a list of earlier rounds; this is {kind(value)}."
        raise RowError(name, "history", message)
    found: list[Turn] = []
    for number, each in enumerate(listed):
        if type(each) is dict:
            found.append(each)
            continue
        if type(each) is str:
            found.append({"role": "assistant" if number % 2 else "user", "content": each})
            continue
        if type(each) is not list or len(each) != 2:
            message = f'A round of `{name}` must be ["question", "answer"]; this is {kind(each)}.'
            raise RowError(f"{name}[{number}]", "history", message)
        for role, words in zip(("user", "assistant"), each, strict=True):
            if not is_neutral(words):
                found.append({"role": role, "content": words})
    return found


def asked_turns(fields: Fields, layout: Layout, notes: Notes) -> list[Turn]:
    """Return what is asked: one turn, or the conversation that a prompt is. Raises RowError."""
    name, value = fields.written[layout.asked], fields.take(layout.asked)
    taken = {layout.asked, layout.answer}
    choices = choices_of(fields, taken)
    if type(value) is list:
        found = read_turns(value, name, notes)
        users = [turn for turn in found if turn["role"] == "user"]
        if users:
            users[0]["content"] = in_context(users[0]["content"], fields)
            users[-1]["content"] = with_choices(users[-1]["content"], choices)
    else:
        words = words_of(value, name)
        given = fields.take(INPUT_KEY) if layout.asked != INPUT_KEY else None
        more = "" if given is None else words_of(given, fields.written[INPUT_KEY])
        words = f"{words}\n\n{more}" if more else words
        words = with_choices(in_context(words, fields), choices)
        found = [{"role": "user", "content": words}]
    if choices:
        fields.put(layout.answer, choice_of(fields, layout, choices), fields.written[layout.answer])
    return found


def choice_of(fields: Fields, layout: Layout, choices: list[tuple[str, str]]) -> str:
    """Return the answer of a row with choices. Raises RowError."""
    fields.drop(CHOICE_KEYS)
    return chosen(fields.values[layout.answer], choices, fields.written[layout.answer])


def answer_turns(fields: Fields, layout: Layout, notes: Notes) -> list[Turn]:
    """Return what is answered: words, calls of tools, or turns. Raises RowError."""
    name, value = fields.written[layout.answer], fields.take(layout.answer)
    fields.drop(key for key in ANSWER_KEYS if key != "a")
    calls = calls_in(fields, layout, value)
    if calls is not None:
        return [{"role": "assistant", "content": "", "tool_calls": check_calls(calls, name)}]
    if type(value) is list and value and type(value[0]) is dict and not is_answers(value):
        return read_turns_of(value, name, notes)
    words = first_answer(value, name)
    if is_neutral(words):
        message = f"`{name}` is empty: there is nothing to learn."
        raise RowError(name, "empty_answer", message)
    turn: Turn = {"role": "assistant", "content": words}
    thought = thought_of(fields, "", words)
    if thought is not None:
        turn["reasoning_content"] = thought
    return [turn]


def read_turns_of(value: list[Any], name: str, notes: Notes) -> list[Turn]:
    """Return the turns of a completion, whose order is checked with what was asked."""
    found: list[Turn] = []
    for number, turn in enumerate(value):
        read_turn(turn, f"{name}[{number}]", found, notes)
    return found


def calls_in(fields: Fields, layout: Layout, value: Any) -> Any:
    """Return the calls that an answer is made of, as xlam has them, or None."""
    if layout.answer in CALL_KEYS:
        return value
    if layout.answer == SEVERAL and any(key in fields for key in TOOL_KEYS):
        listed = list_in(value)
        return listed if are_calls(listed) else None
    return None


def is_answers(value: list[Any]) -> bool:
    return all(type(each) is dict and "text" in each and "role" not in each for each in value)


def first_answer(value: Any, name: str) -> str:
    """Return the words of an answer: the first, where a field lists equal ones (SQuAD, NQ).

    Raises RowError.
    """
    if fold(name) == SEVERAL and type(value) is str and value.lstrip()[:1] in ("[", "{"):
        value = json_value(value, name, "answers", f"`{name}`") if looks_json(value) else value
    if type(value) is dict and type(value.get("text")) is list:
        value = value["text"]
    if type(value) is list and (len(value) == 1 or (value and fold(name) == SEVERAL)):
        value = value[0]
    if type(value) is list and not value:
        message = f"`{name}` is empty: there is nothing to learn."
        raise RowError(name, "empty_answer", message)
    if type(value) is list and type(value[0]) is str:
        message = (
            f"`{name}` lists {len(value)} answers: it is not clear which one is to be learned. "
            "Keep one, as a string."
        )
        raise RowError(name, "many_answers", message)
    return words_of(value, name)


def looks_json(value: str) -> bool:
    return list_in(value) is not None or value.lstrip().startswith("{")
