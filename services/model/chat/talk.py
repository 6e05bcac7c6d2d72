"""A conversation as it is handed to a template, in the form in which that template wants it.

Templates differ in what they read: thoughts under one of several names, or only inside the answer;
the arguments of a call as an object or as JSON text; a call's id of nine characters, or one that
names the function; no words beside a call as an empty string or as null; a tool's turn with the
name of its function.
"""

import hashlib
import itertools
import json
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from services.model.chat.thoughts import THINK, Tags
from services.model.template_sandbox import Rendering
from shared.formats.dataset import ChatTurn

THOUGHT_FIELDS = ("reasoning_content", "thinking", "reasoning")
NINE = re.compile(r"[A-Za-z0-9]{9}")
LETTERS = string.digits + string.ascii_letters
# The fields of a stored turn that no template reads as they are.
ADDED = {"reasoning_content", "weight", "spans"}
PROBE_THOUGHT = "a thought to be found"

Tools = Sequence[dict[str, Any]] | None
Options = dict[str, Any] | None


class Form(NamedTuple):
    """The form in which a template wants a conversation.

    `thought`, `call_thought`: the field for the thought of an answer and of a call; None: written
    into the content. `apart`: the thought of a call is not handed over at all. `ids`: as they are,
    of nine letters and digits, or `functions.NAME:N`.
    """

    thought: str | None = None
    call_thought: str | None = None
    apart: bool = False
    text_arguments: bool = False
    ids: Literal["own", "nine", "numbered"] = "own"
    null_content: bool = False
    named: bool = False


def call_forms() -> list[Form]:
    """Return all forms that differ in how calls are written, the plainest ones first."""
    flags, ids = (False, True), ("own", "nine", "numbered")
    found = [
        Form(text_arguments=text, ids=kind, null_content=null, named=named)  # type: ignore[arg-type]
        for null, kind, named, text in itertools.product(flags, ids, flags, flags)
    ]
    return sorted(found, key=lambda form: sum(a != b for a, b in zip(form, Form(), strict=True)))


@dataclass(frozen=True)
class Talk:
    """A conversation, `handed` as the template gets it: one entry for each of the `messages`."""

    messages: Sequence[ChatTurn]
    handed: list[dict[str, Any]]
    tools: Tools = None
    options: Options = None

    def wish(
        self, end: int, prompt: bool = False, more: Sequence[dict[str, Any]] = ()
    ) -> Rendering:
        """Return the request to render the turns before `end`, and then `more`."""
        tools = list(self.tools) if self.tools else None
        return Rendering([*self.handed[:end], *more], prompt, tools, self.options or {})

    tags: Tags = THINK

    def sought(self, index: int) -> tuple[str, str | None]:
        """Return (the words of an answer, its thought if the template reads it from a field)."""
        message, turn = self.messages[index], self.handed[index]
        if any(name in turn for name in THOUGHT_FIELDS):
            return message.content, message.reasoning_content
        return with_thought(message, self.tags), None


def talk_as(
    form: Form, tags: Tags, messages: Sequence[ChatTurn], tools: Tools, options: Options
) -> Talk:
    """Return a conversation in this form. `tags`: of thoughts that are written into the content."""
    turns = [m.model_dump(mode="json", exclude=ADDED) for m in messages]
    for message, turn in zip(messages, turns, strict=True):
        calls = turn.get("tool_calls") or ()
        if calls and form.null_content and not turn["content"]:
            turn["content"] = None
        for call in calls if form.text_arguments else ():
            arguments = call["function"].get("arguments", {})
            if not isinstance(arguments, str):
                text = json.dumps(arguments, ensure_ascii=False)
                call["function"] = {**call["function"], "arguments": text}
        if thinks(message) and not (calls and form.apart):
            field = form.call_thought if calls else form.thought
            if field is None:
                turn["content"] = with_thought(message, tags)
            else:
                turn[field] = message.reasoning_content
    if form.ids != "own" or form.named:
        link_answers(turns, form)
    return Talk(messages, turns, tools, options, tags)


def with_thought(message: ChatTurn, tags: Tags) -> str:
    """Return the words of an answer, behind its thought if it has one."""
    if not thinks(message):
        return message.content
    return tags.opening + str(message.reasoning_content).strip() + tags.closing + message.content


def thinks(message: ChatTurn) -> bool:
    """Return whether an answer has a thought in its own field; an empty one is not taught."""
    return bool(message.reasoning_content and message.reasoning_content.strip())


class Called(NamedTuple):
    """A call that was not answered yet: its id as it came and as it is now."""

    own: str | None
    new: str | None
    name: str


def link_answers(turns: list[dict[str, Any]], form: Form) -> None:
    """Give calls the ids that the form wants, and each tool's turn that of its call."""
    count = itertools.count()
    waiting: list[Called] = []
    for turn in turns:
        for call in turn.get("tool_calls") or ():
            own, name = call.get("id"), call["function"]["name"]
            new = new_id(own, name, next(count), form)
            if new is not None:
                call["id"] = new
            waiting.append(Called(own, new, name))
        if turn["role"] == "tool":
            link_answer(turn, waiting, form)


def link_answer(turn: dict[str, Any], waiting: list[Called], form: Form) -> None:
    """Give a tool's turn the id and the name of its call: by its own id, or else the first left."""
    own = turn.get("tool_call_id")
    called = next((c for c in waiting if own is not None and c.own == own), None)
    called = called or (waiting[0] if waiting else Called(own, new_id(own, "", 0, form), ""))
    if called in waiting:
        waiting.remove(called)
    if called.new is not None:
        turn["tool_call_id"] = called.new
    if form.named and called.name:
        turn.setdefault("name", called.name)


def new_id(own: str | None, name: str, number: int, form: Form) -> str | None:
    """Return the id of a call in this form. It is the same one each time, for the same call."""
    if form.ids == "numbered":
        return f"functions.{name}:{number}"
    if form.ids == "own" or (own is not None and NINE.fullmatch(own)):
        return own
    digest = hashlib.sha256((own or f"{name}:{number}").encode("utf-8", "replace")).digest()
    return "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:9])


def thought_probes(calls: bool) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield (field, conversation with a thought in that field): does a template show it?"""
    said: dict[str, Any] = {"role": "assistant", "content": "" if calls else "Yes."}
    if calls:
        said["tool_calls"] = list(CALLING[1].tool_calls or ())
    for field in THOUGHT_FIELDS:
        yield field, [{"role": "user", "content": "Is it so?"}, {**said, field: PROBE_THOUGHT}]


CALLING = tuple(
    ChatTurn.model_validate(turn)
    for turn in (
        {"role": "user", "content": "How warm is it in Rome?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "call_1abcdefgh",
                    "function": {"name": "get_weather", "arguments": {"city": "Rome"}},
                }
            ],
        },
        {"role": "tool", "content": "21", "tool_call_id": "call_1abcdefgh"},
        {"role": "assistant", "content": "It is 21 degrees warm."},
    )
)
CALLABLE: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Returns how warm it is.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "the city"}},
                "required": ["city"],
            },
        },
    }
]
