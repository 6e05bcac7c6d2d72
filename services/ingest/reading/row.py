"""The reading of one row: recognise its layout, check it, bring it to the canonical form.

The canonical row is `{"messages":[{"role":…,"content":…},…]}` on one line, with `"tools":[…]`
behind it if there are any, or `{"text":"…"}`: compact, UTF-8, with no escapes but those that JSON
requires. Equal conversations have equal bytes, whatever layout they came in.
"""

import functools
from typing import Any, NamedTuple

import orjson

from services.ingest.reading import digits
from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows import meaning
from services.ingest.reading.rows.calls import check_tools
from services.ingest.reading.rows.context import in_context
from services.ingest.reading.rows.exports import unfolded
from services.ingest.reading.rows.fields import Fields, is_neutral
from services.ingest.reading.rows.layouts import Layout, layout_of, named_layout, simple_pair
from services.ingest.reading.rows.notes import Notes
from services.ingest.reading.rows.options import RowOptions, merged_system, renamed
from services.ingest.reading.rows.pairs import pair_turns
from services.ingest.reading.rows.preference import RowLeftOut, settle
from services.ingest.reading.rows.refused import refuse_untrainable, refuse_unused
from services.ingest.reading.rows.template_kwargs import template_kwargs
from services.ingest.reading.rows.thoughts import put_thought, thought_of
from services.ingest.reading.rows.turns import (
    Turn,
    are_plain,
    check_answered,
    read_turns,
    without_empty_last,
)
from services.ingest.reading.rows.weights import put_weight, row_weight
from services.ingest.reading.rows.words import without_nul, words_of

__all__ = ["SUPPORTED", "ReadRow", "RowError", "RowLeftOut", "RowOptions", "canonical_row"]

SUPPORTED = (
    '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    '{"prompt": "…", "completion": "…"}   (strings, or lists of messages)',
    '{"instruction": "…", "input": "…", "output": "…"}   ("input" may be left out)',
    '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}',
    '{"question": "…", "answer": "…"}   (or query/response, problem/solution, and others)',
    '{"text": "…"}   (all of it is learned)',
)
DEFAULT = RowOptions()


class ReadRow(NamedTuple):
    """A row that was read.

    `line` is the canonical bytes without a newline; `ignored` are fields that were left out.
    """

    layout: str
    line: bytes
    ignored: tuple[str, ...] = ()


def canonical_row(row: Any, options: RowOptions = DEFAULT) -> ReadRow:
    """Return the canonical form of a parsed row. Raises RowError, RowLeftOut."""
    if type(row) is not dict:
        message = f"A row must be one JSON object, {{…}}; this is {kind(row)}."
        raise RowError("row", "not_an_object", message)
    if options is DEFAULT or options.is_default:
        simple = simple_row(row)
        if simple is not None:
            return simple
    try:
        name, made, ignored = read_fields(renamed(unfolded(row), options), options)
        return ReadRow(name, digits.write(made), tuple(sorted(ignored)))
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise RowError("row", "too_deep", "The row is nested too deeply.") from error


def plain_row(raw: bytes) -> tuple[str, bytes, tuple[str, ...]] | None:
    """Return layout, canonical line and ignored fields of a row as most rows are.

    It is nothing but good `messages`, or a question and its answer in words. None means that the
    row needs a closer look. The speed of reading depends on this.
    """
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if type(row) is not dict:
        return None
    if len(row) == 1 and are_plain(row.get("messages")):
        line = orjson.dumps(row)
        # A key that stood twice was dropped with its quotes; no escape may hide a quote, or a NUL.
        if raw.count(b'"') != line.count(b'"') or b"\\u00" in raw:
            return None
        return "messages", line, ()
    simple = simple_row(row)
    return simple if simple is not None and quotes(raw) == 2 * strings_in(row) else None


def strings_in(row: dict[str, Any]) -> int:
    """Return the number of strings in a flat row, names of fields included; else -1."""
    number = len(row)
    for value in row.values():
        if type(value) is str:
            number += 1
        elif type(value) is list or type(value) is dict:
            return -1
    return number


def quotes(line: bytes) -> int:
    """Return the number of quotes that begin or end a string."""
    if b"\\" not in line:
        return line.count(b'"')
    if b'\\\\"' in line:  # a backslash that stands for itself escapes no quote
        line = line.replace(b"\\\\", b"")
    return line.count(b'"') - line.count(b'\\"')


# ---- a row that is nothing but a question and its answer -----------------------------------------


@functools.lru_cache(maxsize=512)
def simple_shape(keys: tuple[str, ...]) -> tuple[str, str, str, str, tuple[str, ...]] | None:
    """Return simple_pair of these fields, and behind it the others, which are ignored."""
    found = simple_pair(keys)
    return None if found is None else (*found, tuple(sorted({*keys} - {*found[1:]})))


def simple_row(row: dict[str, Any]) -> ReadRow | None:
    """Return a row whose fields are a question and its answer in words, or None.

    It says the same as the long way, and is faster.
    """
    shape = simple_shape(tuple(row)) if len(row) < 32 else None
    if shape is None:
        return None
    layout, asked_name, input_name, answer_name, ignored = shape
    asked, answer = row[asked_name], row[answer_name]
    given = row[input_name] if input_name else ""
    if type(asked) is not str or type(answer) is not str or type(given) is not str:
        return None
    if "\0" in asked or "\0" in answer or "\0" in given or not answer or answer.isspace():
        return None
    if given:
        asked = f"{asked}\n\n{given}"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return ReadRow(layout, orjson.dumps({"messages": turns}), ignored)


# ---- every other row -----------------------------------------------------------------------------


def read_fields(row: dict[str, Any], options: RowOptions) -> tuple[str, dict[str, Any], set[str]]:
    """Return the layout of a row, its canonical form, and what was ignored.

    Raises RowError, RowLeftOut.
    """
    fields, notes = Fields(row), Notes()
    refuse_untrainable(fields, row)
    settle(fields, only_positive=options.only_positive)
    layout = chosen_layout(fields, options.layout) if options.layout else layout_of(fields)
    made: dict[str, Any]
    if layout.is_text:
        made = text_row(fields)
    else:
        made = conversation(fields, layout, notes, options)
        refuse_unused(fields)
    notes.ignored.update(name for _, name, _ in fields.unread())
    return layout.name, made, notes.ignored


def chosen_layout(fields: Fields, name: str) -> Layout:
    """Return the layout that the sidecar names. Raises RowError where the row lacks its fields."""
    layout = named_layout(name)
    wanted = [meaning.TEXT_KEY] if layout.is_text else [layout.asked, layout.answer]
    for key in wanted:
        if key and key not in fields:
            message = (
                f"The row has no `{key}`, which `layout: {name[:40]}` in the sidecar asks for."
            )
            raise RowError(key, "missing_field", message)
    return layout


def conversation(
    fields: Fields, layout: Layout, notes: Notes, options: RowOptions
) -> dict[str, Any]:
    """Return the canonical form of a row of turns. Raises RowError."""
    turns = pair_turns(fields, layout, notes) if layout.is_pair else talk(fields, layout, notes)
    turns = with_system(fields, turns)
    weight = row_weight(fields)
    if weight != 1:
        for turn in turns:
            if turn["role"] == "assistant":
                put_weight(turn, turn.get("weight", 1) * weight)
        check_answered(turns, "row")
    for name, tools in fields.take_said(meaning.TOOL_KEYS):
        notes.add_tools(check_tools(tools, name), name)
    made: dict[str, Any] = {"messages": merged_system(turns) if options.system else turns}
    if notes.tools:
        made["tools"] = notes.tools
    kwargs = template_kwargs(fields)
    if kwargs:
        made["template_kwargs"] = kwargs
    return made


def talk(fields: Fields, layout: Layout, notes: Notes) -> list[Turn]:
    """Return the turns of a conversation, with what stands beside it in the row."""
    name, value = fields.written[layout.asked], fields.take(layout.asked)
    turns = read_turns(value, name, notes)
    answers = fields.said(meaning.ANSWER_KEYS) if turns[-1]["role"] == "user" else []
    if answers:  # what is said in the end stands in a field of its own
        words = words_of(fields.take(answers[0]), fields.written[answers[0]])
        turns.append({"role": "assistant", "content": words})
    users = [turn for turn in turns if turn["role"] == "user"]
    if users:
        users[0]["content"] = in_context(users[0]["content"], fields)
    said = [turn for turn in turns if turn["role"] == "assistant"]
    if len(said) == 1 and "reasoning_content" not in said[0]:
        thought = thought_of(fields, "", said[0]["content"])
        if thought is not None:
            put_thought(said[0], thought)
    without_empty_last(turns, name, notes)
    check_answered(turns, name)
    return turns


def text_row(fields: Fields) -> dict[str, Any]:
    """Return the canonical form of a row of text. Raises RowError."""
    words = without_nul(words_of(fields.take(meaning.TEXT_KEY), "text"), "text")
    if is_neutral(words):
        raise RowError("text", "empty_answer", "`text` is empty: there is nothing to learn.")
    weight = row_weight(fields)
    if not weight:
        raise RowError("row", "nothing_trained", "The weight of the text is 0: nothing is learned.")
    for key, _, value in list(fields.unread()):
        if type(value) is str and value.strip() in words:
            fields.drop([key])  # rendered in the text
    refuse_unused(fields)
    made: dict[str, Any] = {"text": words}
    put_weight(made, weight)
    return made


def with_system(fields: Fields, turns: list[Turn]) -> list[Turn]:
    """Return turns with the row's own system prompt in front, unless they begin with it."""
    for name, value in fields.take_said(meaning.SYSTEM_KEYS):
        words = words_of(value, name)
        if not turns or turns[0] != {"role": "system", "content": words}:
            turns = [{"role": "system", "content": words}, *turns]
    return turns
