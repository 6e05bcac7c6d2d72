"""The chats of SillyTavern: a first line about the chat, then a line for each message.

A chat is one conversation. Of several answers to a message (`swipes`) the one that was kept is
read. As in the program's own prompts, hidden messages (`is_system`) are not part of it, the
narrator's are system turns, and calls of tools stand in `extra`.
"""

from collections.abc import Iterator
from typing import Any

from services.ingest.container import wrapped
from services.ingest.reading import digits
from services.ingest.reading.row_error import Item, RowError, too_long
from services.ingest.reading.rows.fields import fold
from services.ingest.reading.rows.meaning import MEDIA_KEYS

Message = dict[str, Any]
READ = frozenset({"mes", "is_user", "is_system", "swipes", "swipe_id", "extra"})
ATTACHED = frozenset({"file", "files"})


def begins_chat(row: Message) -> bool:
    """Return whether a row is the first line of a chat; old chats of groups have no head."""
    return is_head(row) or is_line(row)


def is_head(row: Message) -> bool:
    named = row.keys() >= {"user_name", "character_name"} or "chat_metadata" in row
    return named and not wrapped.is_row(row)


def is_line(row: Message) -> bool:
    return "is_user" in row and ("mes" in row or "swipes" in row)


class TavernChat:
    """A chat whose lines are added one after the other. `line` is that of its head."""

    def __init__(self, line: int, head: Message, limit: int) -> None:
        self.line, self._head, self._limit = line, head, limit
        self._turns: list[Message] = []
        self._wrong: RowError | None = None
        self._size = 0

    def add(self, number: int, row: Message | RowError) -> None:
        """Add a line; a bad one makes the chat a bad row, since its answers would be to nothing."""
        if self._wrong is not None:
            return
        if isinstance(row, dict) and is_line(row):
            turns = turns_of(row)
            self._turns += turns
            self._size += sum(len(str(turn.get("content"))) for turn in turns)
            self._wrong = too_long(self._limit) if self._size > self._limit else None
            return
        rule = row.rule if isinstance(row, RowError) else "layout"
        what = row.message if isinstance(row, RowError) else "It is not a message of SillyTavern."
        self._wrong = RowError("row", rule, f"Line {number} of this chat cannot be read. {what}")

    def row(self) -> bytes | RowError:
        """Return the chat as a row of messages."""
        return self._wrong or digits.as_given({**self._head, "messages": self._turns})


def chats(rows: Iterator[tuple[int, Message | RowError]], limit: int) -> Iterator[Item]:
    """Yield each chat as a row, with the line that it begins on."""
    chat: TavernChat | None = None
    for number, row in rows:
        is_new = isinstance(row, dict) and is_head(row)
        if is_new and chat is not None:
            yield chat.line, chat.row()
        if isinstance(row, dict) and is_new:
            chat = TavernChat(number, row, limit)
            continue
        chat = chat or TavernChat(number, {}, limit)
        chat.add(number, row)
    if chat is not None:
        yield chat.line, chat.row()


def turns_of(message: Message) -> list[Message]:
    """Return the turns that a message stands for: one, none if it is hidden, or calls."""
    extra = message.get("extra")
    extra = extra if type(extra) is dict else {}
    if message.get("is_system") is True:
        return called(extra.get("tool_invocations"))
    role = "user" if message["is_user"] else "assistant"
    if extra.get("type") == "narrator":
        role = "system"
    turn = {name: value for name, value in message.items() if name not in READ}
    turn |= {name: value for name, value in extra.items() if fold(name) in MEDIA_KEYS}
    turn |= {"role": role, "content": said_in(message)}
    if any(extra.get(name) for name in ATTACHED):
        turn["content"] = [{"type": "text", "text": turn["content"]}, {"type": "file"}]
    if role == "assistant" and extra.get("reasoning"):
        turn["reasoning_content"] = extra["reasoning"]
    return [turn]


def said_in(message: Message) -> Any:
    """Return what a message says: the answer that was kept. Chub writes it into an object."""
    words, swipes, chosen = message.get("mes"), message.get("swipes"), message.get("swipe_id")
    if words is None and type(swipes) is list and type(chosen) is int and swipes[chosen:]:
        words = swipes[chosen]
    return words.get("message") if type(words) is dict else words


def called(invocations: Any) -> list[Message]:
    """Return calls of tools and what they returned."""
    if type(invocations) is not list:
        return []
    found = [each for each in invocations if type(each) is dict]
    calls = [
        {"id": each.get("id"), "function": {"name": each.get("name"), "arguments": args}}
        for each in found
        for args in (each.get("parameters"),)
    ]
    results = [
        {"role": "tool", "tool_call_id": each.get("id"), "content": each.get("result")}
        for each in found
    ]
    return [{"role": "assistant", "tool_calls": calls}, *results] if calls else []
