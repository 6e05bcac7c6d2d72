"""The turns of a conversation, in every form that is known, as canonical turns.

A canonical turn is `{"role":…,"content":…}`. An assistant's may also have `reasoning_content`,
`tool_calls`, `weight` and `spans`, a tool's `name` and `tool_call_id`.
"""

from typing import Any

from services.ingest.reading.row_error import RowError, kind
from services.ingest.reading.rows.calls import check_calls, check_tools
from services.ingest.reading.rows.context import in_context
from services.ingest.reading.rows.fields import Fields, fold, is_neutral
from services.ingest.reading.rows.meaning import (
    ANSWER_KEYS,
    ASKED_KEYS,
    CALL_KEYS,
    CHOICES_KEYS,
    CONTEXT_KEYS,
    INPUT_KEY,
    THOUGHT_KEYS,
    TOOL_KEYS,
    TURN_REFUSED,
)
from services.ingest.reading.rows.notes import Notes
from services.ingest.reading.rows.parts import Content, content_of
from services.ingest.reading.rows.roles import CONTENT_KEYS, ROLE_KEYS, SPEAKERS, role_of
from services.ingest.reading.rows.thoughts import thought_of
from services.ingest.reading.rows.weights import check_untrained, put_weight, spans_of, turn_weight
from services.ingest.reading.rows.words import list_in

Turn = dict[str, Any]
FIELDS = ["role", "content"]
PLAIN_ROLES = frozenset({"system", "user", "assistant"})
TOOL_NAME, TOOL_CALL_ID = fold("name"), fold("tool_call_id")
TURN_USED = frozenset((*THOUGHT_KEYS, *CALL_KEYS, *TOOL_KEYS, *CONTEXT_KEYS, *CHOICES_KEYS))
CALL_IDS = (TOOL_CALL_ID, fold("tool_use_id"), fold("call_id"))


def are_plain(messages: Any) -> bool:
    """Return whether these turns are already canonical; a NUL is not looked for.

    Most rows are, and this finds it out fast.
    """
    if type(messages) is not list:
        return False
    answered = False
    for turn in messages:
        if type(turn) is not dict or [*turn] != FIELDS:
            return False
        role, content = turn.values()
        if type(content) is not str or not content or content.isspace():
            return False
        if type(role) is not str or role not in PLAIN_ROLES:
            return False
        if role == "assistant":
            answered = True
    return answered


def check_answered(turns: list[Turn], where: str) -> None:
    """Check that something is learned. Raises RowError."""
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if not answers:
        message = "There is no assistant turn, so there is nothing to learn."
        raise RowError(where, "no_answer", message)
    if not any(turn.get("weight", 1) and turn.get("spans") != [] for turn in answers):
        message = "No answer is to be learned: the weight of each one is 0."
        raise RowError(where, "nothing_trained", message)


def read_turns(value: Any, where: str, notes: Notes) -> list[Turn]:
    """Return the canonical turns of a list: each is checked, then their order.

    Raises RowError.
    """
    turns = list_in(value)
    if turns is None:
        message = f"`{where}` must be a list of turns; this is {kind(value)}."
        raise RowError(where, "not_a_list", message)
    if not turns:
        raise RowError(where, "empty_messages", f"`{where}` is empty: it has no turns.")
    if all(type(turn) is str for turn in turns):
        turns = alternating(turns)
    found: list[Turn] = []
    for number, turn in enumerate(turns):
        read_turn(turn, f"{where}[{number}]", found, notes)
    check_order(found, where)
    return found


def alternating(said: list[str]) -> list[Turn]:
    """Return plain strings as the turns of a user and an assistant, who take turns."""
    return [{"role": "assistant" if n % 2 else "user", "content": s} for n, s in enumerate(said)]


def check_order(turns: list[Turn], where: str) -> None:
    """Check that a tool's turn follows an assistant's. All else is for the template to decide.

    Raises RowError.
    """
    before = ""
    for index, turn in enumerate(turns):
        role = turn["role"]
        if role == "tool" and before not in ("assistant", "tool"):
            message = "A tool turn must follow the assistant turn that called the tool."
            raise RowError(f"{where}[{index}].role", "role_order", message)
        before = role


def without_empty_last(turns: list[Turn], where: str, notes: Notes) -> None:
    """Leave out an empty answer at the end of a conversation that has others.

    It is the place for an answer that was never given. Raises RowError of every other empty answer.
    """
    empty = [n for n, turn in enumerate(turns) if is_empty(turn)]
    if empty == [len(turns) - 1] and any(t["role"] == "assistant" for t in turns[:-1]):
        turns.pop()
        notes.ignored.add(f"{where}[] (an empty last answer)")
    elif empty:
        message = "The assistant's answer is empty: there is nothing to learn."
        raise RowError(f"{where}[{empty[0]}].content", "empty_answer", message)


def is_empty(turn: Turn) -> bool:
    """Return whether a turn is an answer without words and without calls."""
    return (
        turn["role"] == "assistant" and not turn.get("tool_calls") and is_neutral(turn["content"])
    )


# ---- one turn ------------------------------------------------------------------------------------


def read_turn(turn: Any, where: str, found: list[Turn], notes: Notes) -> None:
    """Append what a turn says to the canonical turns. Raises RowError."""
    if type(turn) is not dict:
        message = f"A turn must be an object with role and content; this is {kind(turn)}."
        raise RowError(where, "not_an_object", message)
    fields = Fields(turn)
    role_key = next((key for key in ROLE_KEYS if key in fields), None)
    if role_key is None:
        rounds = round_of(fields)
        if rounds is None:
            raise RowError(f"{where}.role", "missing_field", "The turn has no `role`.")
        words_of_all = [(role, name, fields.take(fold(name))) for name, role in rounds]
        rest = {name: value for key, name, value in fields.unread()}
        for role, name, words in words_of_all:
            more = rest if role == rounds[-1][1] else {}
            fields.drop(fold(each) for each in more)
            made = {**more, "role": role, "content": words}
            read_turn(made, f"{where}.{name}", found, notes)
    else:
        role = role_in(fields, role_key, where)
        said, results = turn_said(fields, role, where, notes)
        found.extend(results)
        if said is not None:
            append(said, role, found)
    list_name = where.partition("[")[0]
    for key, name, value in fields.unread():
        if key in TURN_USED and not is_neutral(value):
            message = f"`{name}` has no use in a turn of this role. Leave it out."
            raise RowError(f"{where}.{name}", "not_used", message)
        notes.ignored.add(f"{list_name}[].{name}")


def append(turn: Turn, role: str, found: list[Turn]) -> None:
    """Append a turn; calls that follow an assistant's words belong to these words."""
    last = found[-1] if found else None
    marked = {"reasoning_content", "weight", "spans"} & turn.keys()
    alone = not marked and not (last or {}).keys() & {"weight", "spans"}
    if role == "calls" and alone and last is not None and last["role"] == "assistant":
        last["tool_calls"] = [*last.get("tool_calls", ()), *turn["tool_calls"]]
        return
    found.append(turn)


def round_of(fields: Fields) -> list[tuple[str, str]] | None:
    """Return (name, role) of the fields of a turn that is named for its speakers, or None.

    Such as {"human": "…", "assistant": "…"} or {"user": "…"}.
    """
    known = [(fields.written[key], role_of(key) or "") for key in SPEAKERS if key in fields]
    if known:
        return known
    asked = next((key for key in (*ASKED_KEYS, INPUT_KEY) if key in fields), None)
    answer = next((key for key in ANSWER_KEYS if key in fields), None)
    if asked is None or answer is None:
        return None
    return [(fields.written[asked], "user"), (fields.written[answer], "assistant")]


def role_in(fields: Fields, key: str, where: str) -> str:
    """Return the role of a turn, `calls` included. Raises RowError."""
    speaker, name = fields.take(key), fields.written[key]
    if type(speaker) is dict:  # ChatGPT's author
        speaker = speaker.get("role")
    if type(speaker) is not str:
        message = f"`{name}` must be a string; this is {kind(speaker)}."
        raise RowError(f"{where}.{name}", "not_a_string", message)
    role = role_of(speaker)
    if role is None:
        message = (
            f"The speaker {speaker[:40]!r} is unknown; it must be system, user, assistant or tool, "
            "or a known name for one of these, such as human and gpt."
        )
        raise RowError(f"{where}.{name}", "unknown_role", message)
    return role


def turn_said(
    fields: Fields, role: str, where: str, notes: Notes
) -> tuple[Turn | None, list[Turn]]:
    """Return the canonical turn, and the results of tools that stand in it. Raises RowError."""
    for name, _ in fields.take_said(TURN_REFUSED):
        raise not_trainable(name, where)
    for name, tools in fields.take_said(TOOL_KEYS):
        notes.add_tools(check_tools(tools, f"{where}.{name}"), f"{where}.{name}")
    said = fields.said(CONTENT_KEYS)
    key = said[0] if said else next((k for k in CONTENT_KEYS if k in fields), None)
    value = None if key is None else fields.take(key)
    missing = "value" if "from" in fields else "content"
    place = f"{where}.{missing if key is None else fields.written[key]}"
    if role == "calls":
        calls = check_calls(value, place)
        return answer(fields, Content("", calls=tuple(calls)), where), []
    found = Content("") if value is None else content_of(value, place, role)
    if role == "assistant":
        calls = [*found.calls, *calls_of(fields, where)]
        if value is None and not calls:
            raise without_content(place, missing=key is None)
        return answer(fields, found._replace(calls=tuple(calls)), where), []
    check_untrained(fields, where, role)
    if value is None and role != "tool":
        raise without_content(place, missing=key is None)
    if role == "tool":
        return (None, list(found.results)) if found.results else (tool_turn(fields, found), [])
    words = found.words
    if role == "user":
        words = in_context(words, fields)
    only_results = found.results and not words
    return None if only_results else {"role": role, "content": words}, list(found.results)


def answer(fields: Fields, said: Content, where: str) -> Turn:
    """Return an assistant's canonical turn. Raises RowError."""
    found: Turn = {"role": "assistant", "content": said.words}
    thought = thought_of(fields, where, said.words) or said.thought or None
    if thought is not None:
        found["reasoning_content"] = thought
    if said.calls:
        found["tool_calls"] = check_calls(list(said.calls), f"{where}.tool_calls")
    weight = turn_weight(fields, where)
    spans = spans_of(fields, said.words, where)
    put_weight(found, 0 if spans == [] else weight)
    if spans:
        found["spans"] = spans
    return found


def calls_of(fields: Fields, where: str) -> list[dict[str, Any]]:
    """Return the calls in an assistant's own fields. Raises RowError."""
    for name, value in fields.take_said(CALL_KEYS):
        return check_calls(value, f"{where}.{name}")
    return []


def tool_turn(fields: Fields, said: Content) -> Turn:
    """Return the canonical turn of a tool."""
    found: Turn = {"role": "tool", "content": said.words}
    name = fields.take(TOOL_NAME)
    if type(name) is str:
        found["name"] = name
    for _, value in fields.take_said(CALL_IDS):
        found.setdefault("tool_call_id", str(value))
    return found


# ---- what is wrong -------------------------------------------------------------------------------


def without_content(where: str, *, missing: bool) -> RowError:
    if missing:
        return RowError(where, "missing_field", "The turn has no `content`.")
    message = "`content` must be a string; this is null or missing."
    return RowError(where, "not_a_string", message)


def not_trainable(name: str, where: str) -> RowError:
    message = (
        f"The turn has `{name}`, which is not text. Duramen trains on text only: say it in words, "
        "or leave the row out."
    )
    return RowError(f"{where}.{name}", "not_text", message)
