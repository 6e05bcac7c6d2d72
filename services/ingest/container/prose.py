"""Plain text and Markdown, cut into rows of text at paragraphs.

A model reads a bounded number of tokens at once, and ingest has no tokenizer: a row has at most
MOST_CHARACTERS, which is about a thousand tokens of English, and hardly above four thousand of any
language. Paragraphs that fit are kept together; a longer one is cut at sentences, then at words. A
heading stays with the paragraph that follows.
"""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import orjson

from services.ingest.reading.repair import TO_UTF8
from services.ingest.reading.row_error import Item, RowError, Unreadable

MOST_CHARACTERS = 4000
READ_CHARACTERS = 1 << 16  # of a line at once
MOST_HELD = 1 << 22  # a line may be longer, but is then cut anywhere
FENCE = re.compile(r"\s{0,3}(```|~~~)")
HEADING = re.compile(r"\s{0,3}#{1,6}\s")
SENTENCE = re.compile(r"[.!?…。！？]+[\"'”’)\]»]*(?:\s+|$)|[。！？]+")


class Paragraph(NamedTuple):
    """Some lines of a text. `line` is the first one's number, from 1."""

    line: int
    text: str
    is_heading: bool = False


def text_rows(file: BinaryIO, *, markdown: bool) -> Iterator[Item]:
    """Yield (line where it begins, a row of text as JSON). Raises Unreadable."""
    text = io.TextIOWrapper(file, "utf-8-sig", newline=None)
    try:
        for line, words in text_pieces(paragraphs(text, markdown=markdown)):
            if "\0" in words:
                message = "The text contains a NUL character, perhaps because a copy was cut off."
                yield line, RowError("text", "nul", message)
            else:
                yield line, orjson.dumps({"text": words})
    finally:
        text.detach()  # who opened the file closes it


def paragraphs(text: io.TextIOWrapper, *, markdown: bool) -> Iterator[Paragraph]:
    """Yield what stands between empty lines; in Markdown, code between fences is one paragraph."""
    number, begun, first, size, fenced = 1, list[str](), 1, 0, ""
    while line := next_line(text, number):
        fence = FENCE.match(line) if markdown else None
        heading = markdown and not fenced and HEADING.match(line) is not None
        ends = (not line.strip() and not fenced) or heading or size > MOST_HELD
        full = size > MOST_CHARACTERS and bool(begun) and begun[-1].endswith("\n")
        if begun and (ends or full):
            yield Paragraph(first, "".join(begun).rstrip())
            begun, size = [], 0
        if heading:
            yield Paragraph(number, line.strip(), is_heading=True)
        elif line.strip() or begun:
            first = first if begun else number
            begun.append(line)
            size += len(line)
        if fence:
            fenced = "" if fenced == fence[1] else fenced or fence[1]
        number += line.endswith("\n")
    if begun:
        yield Paragraph(first, "".join(begun).rstrip())


def next_line(text: io.TextIOWrapper, number: int) -> str:
    """Return the next line, or a part of a very long one. Raises Unreadable."""
    try:
        return text.readline(READ_CHARACTERS)
    except UnicodeDecodeError as error:
        message = (
            f"The text is not valid UTF-8 (byte 0x{error.object[error.start]:02x}). Perhaps it is "
            f"in Windows-1252. {TO_UTF8}"
        )
        raise Unreadable(RowError("file", "utf8", message), number) from error


def text_pieces(found: Iterator[Paragraph]) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of at most MOST_CHARACTERS, of whole paragraphs where they fit.

    A heading begins a new piece if half of one is full, and never ends one.
    """
    waiting: list[Paragraph] = []
    size = 0
    for each in (part for paragraph in found for part in parts(paragraph)):
        full = size + len(each.text) > MOST_CHARACTERS
        if waiting and (full or (each.is_heading and size > MOST_CHARACTERS // 2)):
            headings = trailing_headings(waiting) if full else []
            if len(headings) < len(waiting):
                yield one_text(waiting[: len(waiting) - len(headings)])
                waiting = headings
                size = sum(len(p.text) + 2 for p in waiting)
            if size + len(each.text) > MOST_CHARACTERS:
                yield one_text(waiting)
                waiting, size = [], 0
        waiting.append(each)
        size += len(each.text) + 2
    if waiting:
        yield one_text(waiting)


def trailing_headings(waiting: list[Paragraph]) -> list[Paragraph]:
    count = 0
    while count < len(waiting) and waiting[-1 - count].is_heading:
        count += 1
    return waiting[len(waiting) - count :]


def one_text(waiting: list[Paragraph]) -> tuple[int, str]:
    return waiting[0].line, "\n\n".join(p.text for p in waiting)


def parts(paragraph: Paragraph) -> Iterator[Paragraph]:
    """Yield a paragraph, or the text_pieces of one that is too long."""
    rest, line = paragraph.text, paragraph.line
    while len(rest) > MOST_CHARACTERS:
        at = cut_of(rest)
        if words := rest[:at].rstrip():
            yield Paragraph(line, words)
        line += rest.count("\n", 0, at)
        rest = rest[at:].lstrip()
    if rest:
        yield Paragraph(line, rest, paragraph.is_heading)


def cut_of(text: str) -> int:
    """Return where a long text is cut: behind a sentence, else a line, else a word, else anywhere.

    The cut lies in the second half of what fits, so that text_pieces do not become tiny.
    """
    head, half = text[:MOST_CHARACTERS], MOST_CHARACTERS // 2
    ends = [m.end() for m in SENTENCE.finditer(head) if half < m.end() < MOST_CHARACTERS]
    if ends:
        return ends[-1]
    for sign in ("\n", " "):
        if (at := head.rfind(sign, half)) > 0:
            return at + 1
    return MOST_CHARACTERS
