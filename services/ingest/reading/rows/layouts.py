"""Which layout a row has: a conversation, a question with its answer, or text.

Where two fit, the one that holds the other is taken; where they say different things, the row is
refused, and `layout:` in the sidecar decides.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.context import has_choices
from services.ingest.reading.rows.fields import Fields, fold
from services.ingest.reading.rows.meaning import (
    ANSWER_KEYS,
    ASKED_KEYS,
    BESIDE_TEXT,
    CALL_KEYS,
    CHOICE_KEYS,
    CONTENT_KEY,
    CONVERSATIONS,
    INPUT_KEY,
    OF_ROWS,
    TEXT_KEY,
    THOUGHT_KEYS,
    VERDICT_KEYS,
    option_letter,
)
from services.ingest.reading.rows.words import json_of, list_in

KNOWN = (
    "Use one of these layouts: messages, prompt/completion, instruction/input/output, "
    "conversations, question/answer or text; or name the columns in a sidecar, such as "
    '`columns: {prompt: "Question", answer: "Reply"}`.'
)
INSTRUCTION = "instruction/input/output"
MOST_NAMES = 8


class Layout(NamedTuple):
    """The fields that a row is read from. A conversation has only `asked`, text only `text`."""

    name: str
    asked: str = ""
    answer: str = ""
    is_text: bool = False

    @property
    def is_pair(self) -> bool:
        return bool(self.answer)


def pair_name(asked: str, answer: str) -> str:
    return INSTRUCTION if (asked, answer) == ("instruction", "output") else f"{asked}/{answer}"


def named_layout(name: str) -> Layout:
    """Return a layout by its name, as `layout:` in a sidecar gives it. Raises ValueError."""
    key = name.strip().lower()
    if fold(key) == TEXT_KEY:
        return Layout("text", is_text=True)
    if fold(key) in CONVERSATIONS:
        return Layout(fold(key), fold(key))
    asked, _, answer = key.rpartition("/") if key != INSTRUCTION else ("instruction", "", "output")
    if fold(asked) in (*ASKED_KEYS, INPUT_KEY) and fold(answer) in ANSWER_KEYS:
        return Layout(pair_name(fold(asked), fold(answer)), fold(asked), fold(answer))
    raise ValueError(
        "it must be messages, conversations, text, or the two fields that ask and answer, such as "
        "problem/solution"
    )


def layout_of(fields: Fields) -> Layout:
    """Return the layout of a row. Raises RowError naming what there is instead."""
    talks = [key for key in CONVERSATIONS if is_conversation(fields, key)]
    pair = pair_of(fields)
    if talks:
        check_one_conversation(fields, talks)
        if pair is not None and not is_rendered(fields, pair.answer, talks[0]):
            raise two_layouts(fields.written[talks[0]], pair.name)
        return Layout(talks[0], talks[0])
    if pair is not None:
        return pair
    if TEXT_KEY in fields and is_only_text(fields):
        return Layout("text", is_text=True)
    raise unknown_layout(fields)


# ---- conversations -------------------------------------------------------------------------------


def is_conversation(fields: Fields, key: str) -> bool:
    """Return whether a field is a list of turns, or the only one that could be."""
    if key not in fields:
        return False
    turns = list_in(fields.values[key])
    if key in ("data", "items", "turns", "contents"):  # often something else
        return bool(turns) and all(type(turn) in (str, dict) for turn in turns or ())
    return turns is not None


def check_one_conversation(fields: Fields, talks: list[str]) -> None:
    """Check that all conversations of a row are the same. Raises RowError."""
    said = fields.said(talks)
    if len(said) < 2:
        talks[:] = said or talks[:1]
        return
    first = sayings(fields.values[said[0]])
    for other in said[1:]:
        if sayings(fields.values[other]) != first:
            raise two_layouts(fields.written[said[0]], fields.written[other])
    talks[:] = said


def sayings(value: Any) -> list[str]:
    """Return the longer sayings anywhere in a value: what is said, without roles and types."""
    if type(value) is str:
        listed = list_in(value)
        return sayings(listed) if listed is not None else [value.strip()]
    if type(value) is dict:
        roles = ("role", "from", "type", "speaker")
        value = [part for name, part in value.items() if name not in roles]
    return [s for part in value for s in sayings(part)] if type(value) is list else []


def is_rendered(fields: Fields, key: str, inside: str) -> bool:
    """Return whether what one field says stands in another one, in any form."""
    whole = "\n".join(sayings(fields.values[inside]))
    return all(part in whole for part in sayings(as_text(fields.values[key])))


def as_text(value: Any) -> Any:
    return json_of(value) if isinstance(value, int | float) else value


# ---- a question and its answer -------------------------------------------------------------------


def pair_of(fields: Fields) -> Layout | None:
    """Return the layout of a row that asks and answers, or None. Raises RowError."""
    asked = [key for key in ASKED_KEYS if key in fields]
    answers = [key for key in ANSWER_KEYS if key in fields]
    calls = [key for key in CALL_KEYS if key in fields]
    if "q" in asked and "a" in answers and len(asked) == 1:
        answers = [key for key in answers if key == "a"] or answers
    elif "a" in answers:
        answers.remove("a")  # one of the choices a, b, c, …
    if not answers and CONTENT_KEY in fields and fields.said(THOUGHT_KEYS):
        answers = [CONTENT_KEY]
    if not answers and has_choices(fields):
        answers = fields.said((*CHOICE_KEYS, *VERDICT_KEYS))[:1]
    if not asked and INPUT_KEY in fields:
        asked = [INPUT_KEY]
    if not asked or not (answers or calls):
        return None
    answer = one_answer(fields, answers) if answers else calls[0]
    asked_key = one_question(fields, asked)
    return Layout(pair_name(asked_key, answer), asked_key, answer)


def one_answer(fields: Fields, found: list[str]) -> str:
    """Return the answer that holds all others, such as a solution with its result.

    Raises RowError if none does.
    """
    return the_one(
        fields, found, "answer", lambda key, other: says_all_of(fields, key, other), "answer"
    )


def one_question(fields: Fields, found: list[str]) -> str:
    """Return the shortest question, which all others render. Raises RowError if they do not."""
    return the_one(
        fields, found, "question", lambda key, other: says_all_of(fields, other, key), "prompt"
    )


def the_one(
    fields: Fields, found: list[str], what: str, fits: Callable[[str, str], bool], column: str
) -> str:
    """Return the field that fits all others that say something. Raises RowError if none does.

    `column`: the name under which a sidecar would name it.
    """
    said = fields.said(found)
    if len(said) < 2:
        return said[0] if said else found[0]
    for key in said:
        if all(fits(key, other) for other in said):
            return key
    names = " and ".join(f"`{fields.written[key]}`" for key in said[:3])
    message = (
        f"The row has two {what}s, {names}, and none holds the other. Name one in the sidecar: "
        f'`columns: {{{column}: "{fields.written[said[0]]}"}}`.'
    )
    raise RowError(fields.written[said[0]], f"two_{what}s", message)


def says_all_of(fields: Fields, key: str, other: str) -> bool:
    """Return whether one field holds all that another one says."""
    inside, part = as_text(fields.values[key]), as_text(fields.values[other])
    whole = " ".join("\n".join(sayings(inside)).split())
    return all(" ".join(text.split()) in whole for text in sayings(part))


# ---- text, and what is wrong ---------------------------------------------------------------------


def is_only_text(fields: Fields) -> bool:
    """Return whether no other field could be the answer to the text. Raises RowError if one is."""
    for key in fields.said((*BESIDE_TEXT, *ASKED_KEYS)):
        if not says_all_of(fields, TEXT_KEY, key):
            name = fields.written[key]
            asked, answer = (name, "text") if key in ASKED_KEYS else ("text", name)
            message = (
                f"The row has `text` beside `{name[:40]}`: is it a text to learn, or a question "
                f"and its answer? Say so in the sidecar: `layout: text`, or `columns: {{prompt: "
                f'"{asked[:40]}", answer: "{answer[:40]}"}}`.'
            )
            raise RowError(name, "beside_text", message)
    return True


def two_layouts(first: str, second: str) -> RowError:
    message = (
        f"The row has two layouts at once, {first} and {second}, which say different things. Keep "
        f"one of them, or put `layout: {first}` into the sidecar."
    )
    return RowError("row", "two_layouts", message)


def unknown_layout(fields: Fields) -> RowError:
    if not fields.values:
        return RowError("row", "empty_row", "The row is empty: {}.")
    for key in CONVERSATIONS:
        if key in fields and key not in ("data", "items", "turns", "contents"):
            name, what = fields.written[key], kind(fields.values[key])
            message = f"`{name}` must be a list of turns; this is {what}."
            return RowError(name, "not_a_list", message)
    here = [key for key in (*ASKED_KEYS, INPUT_KEY, *ANSWER_KEYS) if key in fields and key != "a"]
    if here:
        name = fields.written[here[0]]
        missing = partner_of(here[0])
        message = f"The row has `{name}` but no `{missing}`. {KNOWN}"
        return RowError(missing, "missing_field", message)
    shown = ", ".join(f"`{name[:40]}`" for name in list(fields.written.values())[:MOST_NAMES])
    message = f"The row has no known layout: its fields are {shown}. {KNOWN}"
    return RowError("row", "layout", message)


def partner_of(key: str) -> str:
    """Return the field that a row with this one most likely lacks."""
    partners = {"prompt": "completion", "instruction": "output", "question": "answer"}
    partners |= {answer: asked for asked, answer in partners.items()}
    return partners.get(key, "answer" if key in (*ASKED_KEYS, INPUT_KEY) else "instruction")


def simple_pair(keys: tuple[str, ...]) -> tuple[str, str, str, str] | None:
    """Return (layout, field that asks, its input or "", field that answers) of plain fields.

    None if any other field has a meaning. Most rows are of this kind.
    """
    asked = [k for k in keys if fold(k) in ASKED_KEYS]
    answers = [k for k in keys if fold(k) in ANSWER_KEYS]
    inputs = [k for k in keys if fold(k) == INPUT_KEY]
    others = {fold(k) for k in keys} & (
        OF_ROWS | {*CONVERSATIONS, *CALL_KEYS, TEXT_KEY, *BESIDE_TEXT}
    )
    if any(option_letter(fold(k)) for k in keys):
        return None
    if len(asked) != 1 or len(answers) != 1 or len(inputs) > 1 or others - {fold(answers[0])}:
        return None
    name = pair_name(fold(asked[0]), fold(answers[0]))
    return name, asked[0], inputs[0] if inputs else "", answers[0]
