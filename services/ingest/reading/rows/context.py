"""What belongs to a question beside its words: a context in front of it, choices behind it."""

import re
from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.fields import Fields, is_neutral
from services.ingest.reading.rows.meaning import (
    CHOICES_KEYS,
    CONTEXT_KEYS,
    LETTER_KEYS,
    option_letter,
)
from services.ingest.reading.rows.words import json_of, list_in, words_of

LABELLED = re.compile(r"\s*\(?([A-Za-z0-9])\s*[).:]\s*(?=\S)")
TITLES, BODIES = ("title", "name", "header"), ("text", "content", "contents", "body", "passage")

Choice = tuple[str, str]  # its letter or number, its words


def in_context(question: str, fields: Fields) -> str:
    """Return a question with its context in front of it, an empty line between. Raises RowError."""
    found = [passages(value, name) for name, value in fields.take_said(CONTEXT_KEYS)]
    new = [text for text in found if text not in question]
    return "\n\n".join([*new, question])


def passages(value: Any, name: str) -> str:
    """Return a context as words: a string, or a list of passages, each with its title in front.

    Raises RowError.
    """
    listed = list_in(value)
    if listed is None:
        return passage(value, name)
    return "\n\n".join(passage(each, f"{name}[{n}]") for n, each in enumerate(listed))


def passage(value: Any, where: str) -> str:
    if type(value) is not dict:
        return words_of(value, where)
    title = next((value[key] for key in TITLES if not is_neutral(value.get(key))), None)
    body = next((value[key] for key in BODIES if not is_neutral(value.get(key))), None)
    if type(body) is not str or not (title is None or type(title) is str):
        message = 'A passage must be a string, or {"title": "…", "text": "…"}.'
        raise RowError(where, "context", message)
    return body if title is None else f"{title}\n{body}"


def has_choices(fields: Fields) -> bool:
    """Return whether a row brings choices, in one field or in several."""
    if fields.said(CHOICES_KEYS) or len(fields.said(LETTER_KEYS[:2])) == 2:
        return True
    return any(option_letter(key) is not None for key in fields.said(tuple(fields.values)))


def choices_of(fields: Fields, taken: set[str]) -> list[Choice]:
    """Return the choices of a question in their order, each with its letter; none if it has none.

    `taken` are the fields that ask or answer. Raises RowError.
    """
    for name, value in fields.take_said(CHOICES_KEYS):
        return listed(value, name)
    letters = [key for key in LETTER_KEYS if key in fields.said(LETTER_KEYS) and key not in taken]
    if letters[:2] == ["a", "b"]:
        return [(key.upper(), words_of(fields.take(key), key)) for key in letters]
    found: list[Choice] = []
    for key in fields.said(tuple(fields.values)):
        letter = option_letter(key)
        if letter is not None and key not in taken:
            found.append((letter.upper(), words_of(fields.take(key), key)))
    return sorted(found)


def listed(value: Any, name: str) -> list[Choice]:
    """Return choices from a list, from {"A": "…"}, or from {"text": […], "label": […]}."""
    if type(value) is dict and type(value.get("text")) is list:
        texts = value["text"]
        labels = value.get("label") or letters(len(texts))
        if type(labels) is list and len(labels) == len(texts):
            return [(str(k), words_of(v, name)) for k, v in zip(labels, texts, strict=True)]
    if type(value) is dict:
        return [(key, words_of(text, f"{name}.{key}")) for key, text in value.items()]
    texts = list_in(value)
    if texts is None:
        message = f"`{name}` must be a list of choices; this is {kind(value)}."
        raise RowError(name, "choices", message)
    return lettered(texts, name)


def lettered(texts: list[Any], name: str) -> list[Choice]:
    """Return listed choices with their letters, which they may bring with them."""
    if all(type(t) is dict and "label" in t and "text" in t for t in texts):
        return [(str(t["label"]), words_of(t["text"], name)) for t in texts]
    marks = [LABELLED.match(text) if type(text) is str else None for text in texts]
    own = [mark[1].upper() for mark in marks if mark is not None]
    if own == letters(len(texts)):
        return [(k, t[m.end() :]) for k, t, m in zip(own, texts, marks, strict=True) if m]
    return [(k, words_of(t, name)) for k, t in zip(letters(len(texts)), texts, strict=True)]


def letters(count: int) -> list[str]:
    return [chr(ord("A") + n) if n < 26 else str(n + 1) for n in range(count)]


def with_choices(question: str, choices: list[Choice]) -> str:
    """Return a question with its choices behind it, each on a line with its letter.

    A question that lists them already stays as it is.
    """
    if not choices or all(stands_in(question, choice) for choice in choices):
        return question
    lines = "\n".join(f"{label}. {text}" for label, text in choices)
    return f"{question}\n\n{lines}" if question else lines


def stands_in(question: str, choice: Choice) -> bool:
    """Return whether a question lists a choice, with its letter in front."""
    label, text = choice
    return any(f"{label}{mark}{text.strip()}" in question for mark in (". ", ") ", ": ", ".", ")"))


def chosen(value: Any, choices: list[Choice], name: str) -> str:
    """Return the answer that chooses: the letter and the words of its choice.

    A number counts from 0. Words that are no choice are an answer of their own. Raises RowError.
    """
    labels = {label.lower(): n for n, (label, _) in enumerate(choices)}
    texts = {text.strip().lower(): n for n, (_, text) in enumerate(choices)}
    if type(value) is list and len(value) == 1:
        value = value[0]
    index: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        index = value if 0 <= value < len(choices) else texts.get(str(value))
        index = labels.get(str(value)) if str(value) in labels else index
    else:
        said = value if type(value) is str else json_of(value)
        bare = said.strip().strip("().").lower()
        index = labels.get(bare, texts.get(said.strip().lower()))
        if index is None and bare.isdigit() and int(bare) < len(choices):
            index = int(bare)
        if index is None and len(said.strip()) > 1 and not bare.isdigit():
            return words_of(value, name)
    if index is None:
        message = f"`{name}` is {str(value)[:40]!r}, which is not one of {len(choices)} choices."
        raise RowError(name, "choices", message)
    label, text = choices[index]
    return f"{label}. {text}"
