"""The reading of one row: recognise its layout, check it, bring it to the canonical form.

The canonical row is `{"messages":[{"role":…,"content":…},…]}` on one line, with `"tools":[…]`
behind it if there are any, or `{"text":"…"}`: compact, UTF-8, with no escapes but those that JSON
requires. Equal conversations have equal bytes, whatever layout they came in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from services.ingest.reading import digits, turns
from services.ingest.reading.row_error import RowError, kind

__all__ = ["SUPPORTED", "ReadRow", "RowError", "canonical_row"]


class ReadRow(NamedTuple):
    """A row that was read.

    `line` is the canonical bytes without a newline; `ignored` are fields that were left out.
    """

    layout: str
    line: bytes
    ignored: tuple[str, ...] = ()


class Layout(NamedTuple):
    """A layout of rows. `marks` are the fields that identify it, `known` those that it reads."""

    marks: frozenset[str]
    known: frozenset[str]


def layout(marks: str, others: str = "") -> Layout:
    return Layout(frozenset(marks.split()), frozenset(f"{marks} {others}".split()))


LAYOUTS: dict[str, Layout] = {
    "messages": layout("messages", "tools"),
    "prompt/completion": layout("prompt completion", "tools"),
    "instruction/input/output": layout("instruction output", "input system"),
    "conversations": layout("conversations", "system tools"),
    "question/answer": layout("question answer", "system"),
    "text": layout("text"),
}
ROW_FIELDS = frozenset(name for each in LAYOUTS.values() for name in each.known)
PREFERENCE = frozenset({"chosen", "rejected"})
KNOWN = (
    "Use one of these layouts: messages, prompt/completion, instruction/input/output, "
    "conversations, question/answer or text."
)
SUPPORTED = (
    '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    '{"prompt": "…", "completion": "…"}   (strings, or lists of messages)',
    '{"instruction": "…", "input": "…", "output": "…"}   ("input" may be left out)',
    '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}',
    '{"question": "…", "answer": "…"}',
    '{"text": "…"}   (all of it is learned)',
)


def canonical_row(row: Any) -> ReadRow:
    """Return the canonical form of a parsed row. Raises RowError."""
    if type(row) is not dict:
        message = f"A row must be one JSON object, {{…}}; this is {kind(row)}."
        raise RowError("row", "not_an_object", message)
    name = layout_of(row)
    ignored: set[str] = set()
    made = READERS[name](row, ignored)
    known = LAYOUTS[name].known
    if "tools" in known and row.get("tools"):
        made["tools"] = turns.check_tools(row["tools"])
    check_other_fields(row, known)
    ignored |= row.keys() - known
    if "tools" in row and "tools" not in made:
        ignored.add("tools")
    try:
        return ReadRow(name, digits.write(made), tuple(sorted(ignored)))
    except orjson.JSONEncodeError as error:
        raise RowError("row", "too_deep", "The row is nested too deeply.") from error


def plain_row(raw: bytes) -> bytes | None:
    """Return the canonical line of a row that is nothing but good `messages`.

    None means that the row needs a closer look. Most rows come this way, so the speed of reading
    depends on it.
    """
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if type(row) is not dict or len(row) != 1 or not turns.are_plain(row.get("messages")):
        return None
    line = orjson.dumps(row)
    # A key that stood twice was dropped with its quotes; no escape may hide a quote, or a NUL.
    if raw.count(b'"') != line.count(b'"') or b"\\u00" in raw:
        return None
    return line


def check_other_fields(row: dict[str, Any], known: frozenset[str]) -> None:
    """Check that a layout without tools has none. Raises RowError.

    Leaving tools out would change what is trained; leaving out a field such as `id` would not.
    """
    for name in ("tools", "functions"):
        if name not in known and row.get(name):
            message = f"`{name}` is not part of this layout. Use `messages` with `tools`."
            raise RowError(name, "tools", message)


# ---- which layout --------------------------------------------------------------------------------


def layout_of(row: dict[str, Any]) -> str:
    """Return the one layout whose fields are all there.

    Raises RowError naming what there is instead.
    """
    if row.keys() >= PREFERENCE:
        message = (
            "This is preference data (`chosen`/`rejected`), which Duramen does not train "
            "on. Keep the chosen answers, as `prompt`/`completion` or `messages`."
        )
        raise RowError("chosen", "preference", message)
    found = [name for name, each in LAYOUTS.items() if row.keys() >= each.marks]
    if len(found) > 1 and "text" in found:  # another reader's rendering of the same row
        found.remove("text")
    if len(found) == 1:
        return found[0]
    if found:
        message = f"The row has two layouts at once: {' and '.join(found)}. Keep one of them."
        raise RowError("row", "two_layouts", message)
    raise unknown_layout(row)


def unknown_layout(row: dict[str, Any]) -> RowError:
    if not row:
        return RowError("row", "empty_row", "The row is empty: {}.")
    for marks, _ in LAYOUTS.values():
        missing = sorted(marks - row.keys())
        if len(missing) < len(marks):
            here = ", ".join(f"`{name}`" for name in sorted(marks & row.keys()))
            message = f"The row has {here} but no `{missing[0]}`."
            return RowError(missing[0], "missing_field", message)
    names = ", ".join(f"`{name[:40]}`" for name in list(row)[:8])
    return RowError(
        "row", "layout", f"The row has no known layout: its fields are {names}. {KNOWN}"
    )


# ---- layouts -------------------------------------------------------------------------------------


def messages_row(row: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    return {"messages": turns.check_messages(row["messages"], "messages", ignored)}


def prompt_row(row: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    """Return the messages of a prompt and its completion, each a string or messages.

    The completion continues where the prompt ends. Raises RowError.
    """
    prompt, completion = row["prompt"], row["completion"]
    if type(prompt) is not list and type(completion) is not list:
        return pair(string_field(row, "prompt"), row, "completion")
    asked = (
        prompt
        if type(prompt) is list
        else [{"role": "user", "content": string_field(row, "prompt")}]
    )
    said = completion
    if type(said) is not list:
        said = [{"role": "assistant", "content": string_field(row, "completion")}]
    found = [
        turns.check_turn(turn, f"{field}[{n}]", ignored)
        for field, part in (("prompt", asked), ("completion", said))
        for n, turn in enumerate(part)
    ]
    turns.check_order(found, "messages")
    if not found[len(asked) :] or found[len(asked)]["role"] == "user":
        message = "`completion` holds no assistant turn: there is nothing to learn."
        raise RowError("completion", "no_answer", message)
    return {"messages": found}


def instruction_row(row: dict[str, Any], _: set[str]) -> dict[str, Any]:
    """Return the messages of an instruction, its input and its output.

    Instruction and input have an empty line between them, as in Alpaca's readers. Raises RowError.
    """
    asked = string_field(row, "instruction")
    given = string_field(row, "input") if row.get("input") is not None else ""
    return pair(f"{asked}\n\n{given}" if given else asked, row, "output")


def conversations_row(row: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    said = turns.from_sharegpt(row["conversations"])
    if row.get("system") and type(said) is list:
        said = [{"role": "system", "content": string_field(row, "system")}, *said]
    return {"messages": turns.check_messages(said, "conversations", ignored)}


def question_row(row: dict[str, Any], _: set[str]) -> dict[str, Any]:
    return pair(string_field(row, "question"), row, "answer")


def text_row(row: dict[str, Any], _: set[str]) -> dict[str, Any]:
    words = string_field(row, "text")
    if not words or words.isspace():
        raise RowError("text", "empty_answer", "`text` is empty: there is nothing to learn.")
    return {"text": words}


READERS: dict[str, Callable[[dict[str, Any], set[str]], dict[str, Any]]] = {
    "messages": messages_row,
    "prompt/completion": prompt_row,
    "instruction/input/output": instruction_row,
    "conversations": conversations_row,
    "question/answer": question_row,
    "text": text_row,
}


def string_field(row: dict[str, Any], name: str) -> str:
    """Return a field that must be a string without NUL. Raises RowError."""
    value = row.get(name)
    if type(value) is not str:
        raise RowError(name, "not_a_string", f"`{name}` must be a string; this is {kind(value)}.")
    if "\0" in value:
        raise RowError(name, "nul", f"`{name}` contains a NUL character (\\u0000): delete it.")
    return value


def pair(question: str, row: dict[str, Any], answers: str) -> dict[str, Any]:
    """Return one question and its answer, after the row's system prompt if it has one.

    Raises RowError.
    """
    answer = string_field(row, answers)
    if not answer or answer.isspace():
        message = f"`{answers}` is empty: there is nothing to learn."
        raise RowError(answers, "empty_answer", message)
    found = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if "system" in row and row["system"] and answers in ("output", "answer"):
        found.insert(0, {"role": "system", "content": string_field(row, "system")})
    return {"messages": found}
