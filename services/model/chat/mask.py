"""Finds each answer in the text of its conversation: the characters that are trained.

The text up to an answer, as the model is prompted with it, must be the beginning of the whole text,
and the answer is what follows, with the special token that ends the turn; if a template marks
`{% generation %}`, its marks are used instead. Either way, the text found must be the words of the
message.

Text that a template puts between special tokens, between the prompt and an answer, is a header that
the model has to write by itself (gpt-oss names the channel of what it says): it is trained.

Where the template shows an answer differently than the model would have to give it (Mistral leaves
the system prompt out once there is an answer, DeepSeek drops the thought), the answer is written
after its prompt as the message has it.

Reasoning models: an answer may contain a thought, `<think>…</think>`, which the template may put on
lines of its own; it is trained, because the model must learn to think. Where a message contains no
thought and the template puts an empty one, that is the template's, and is not trained. A thought in
a field of its own is trained with all that the template writes around it behind the prompt.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.model.chat.thoughts import EMPTY_LAST, EMPTY_THOUGHT, OPENED, last_words, parted
from services.model.template_sandbox import Rendered
from shared.errors import CannotTrain

HEADER_CHARS = 100  # the longest header that is accepted before an answer

Range = tuple[int, int]


class Call(NamedTuple):
    """A call of a function."""

    name: str
    arguments: Any


class NotThere(Exception):
    """The text does not contain the answer as it should; the message says why."""


@dataclass(frozen=True)
class Turn:
    """An assistant's message: its index and words, its prompt, and the conversation up to its end.

    `prompt` is None if the template marks what is generated. `calls`: the functions that it calls,
    which the template writes after its words. `thought`: what the template reads from a field of
    its own. `weight` is 0 if it is mere context. `spans`: the parts of `own`, its words as they
    are stored, that alone are trained; None: all.
    """

    index: int
    content: str
    prompt: str | None
    until: Rendered
    calls: tuple[Call, ...] = ()
    thought: str | None = None
    weight: float = 1.0
    own: str = ""
    spans: tuple[Range, ...] | None = None


def find_answer(
    turn: Turn, text: Rendered, order: int, turns: int, specials: Sequence[str]
) -> Range:
    """Return the range [start, end) of characters trained for this turn, its end included.

    `order`: which of the `turns` answers in this text it is. Raises NotThere.
    """
    if text.marks is not None:
        return find_marked(turn, text, order, turns, specials)
    assert turn.prompt is not None
    until = turn.until.text
    if not until.startswith(turn.prompt):
        raise NotThere("the prompt for an answer is not the beginning of its text")
    start, end = inside(until, len(turn.prompt), turn, specials)
    if not text.text.startswith(until[:end]):
        raise NotThere("an answer reads differently once the next turn follows")
    return start, end


def find_marked(
    turn: Turn, text: Rendered, order: int, turns: int, specials: Sequence[str]
) -> Range:
    """Return what `find_answer` does, for a template that marks what is generated.

    Raises NotThere.
    """
    ranges = merged(text.marks or [])
    if len(ranges) != turns:
        raise NotThere(f"{turns} answers, but {len(ranges)} are marked as generated")
    first, last = ranges[order]
    start, end = inside(text.text[:last], first, turn, specials)
    if text.text[end:last].strip():
        raise NotThere("more than the answer is marked as generated")
    return start, end


def merged(ranges: Sequence[Range]) -> list[Range]:
    """Return the ranges with those that touch joined into one, and without empty ones."""
    found: list[Range] = []
    for start, end in ranges:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        elif end > start:
            found.append((start, end))
    return found


def inside(text: str, start: int, turn: Turn, specials: Sequence[str]) -> Range:
    """Return the range of the answer that begins at `start`.

    A header or an empty thought that the template puts there is left out. Raises NotThere.
    """
    at = words_end(text, start, turn, specials)
    if at is None and not turn.calls:
        headed = behind_header(text, start, turn.content.strip(), specials)
        if headed is not None:
            return headed
    if at is None or (turn.calls and not turn.content.strip() and turn.thought is None):
        empty = EMPTY_THOUGHT.match(text, start)
        if at is None and empty is None:
            raise NotThere("the template changes an answer or puts words before it")
        start = empty.end() if empty and empty[0].strip() else start
        at = words(text, start, turn.content)
        if at is None:
            raise NotThere("the template changes an answer or puts words before it")
    if turn.calls:
        return call_range(text, start, at, turn, specials)
    end = ended(text, at, specials)
    if end is None:
        raise NotThere("no end-of-turn token follows an answer")
    return start, end


def words_end(text: str, start: int, turn: Turn, specials: Sequence[str]) -> int | None:
    """Return where the words of a turn end that begins at `start`, or None. Raises NotThere."""
    if turn.thought is not None:
        return behind_thought(text, start, turn.thought, turn.content)
    at = words(text, start, turn.content)
    if at is None and turn.calls:
        at = behind_calls(text, start, turn)
        if at is None:
            at = behind_call_header(text, start, turn.content.strip(), specials)
    return at


def behind_thought(text: str, start: int, thought: str, content: str) -> int:
    """Return where the words end that follow a thought. Raises NotThere.

    The template writes tags of its own before and behind the thought.
    """
    at, missing = start, "the template does not show a thought"
    for part in (thought.strip(), content.strip()):
        found = text.find(part, at)
        if found < 0 or found - at > HEADER_CHARS:
            raise NotThere(missing)
        at, missing = found + len(part), "the template puts words behind a thought"
    return at


def behind_calls(text: str, start: int, turn: Turn) -> int | None:
    """Return `start` if the words beside a turn's calls follow them, else None."""
    at = max(text.find(call.name, start) for call in turn.calls)
    words_at = text.find(turn.content.strip(), start)
    return start if 0 <= at < words_at and parted(turn.content) is None else None


def behind_call_header(text: str, start: int, content: str, specials: Sequence[str]) -> int | None:
    """Return where the words beside a call end if a header precedes them, else None.

    What a model says beside a call may belong to a channel of its own.
    """
    at = text.find(content, start) if content else -1
    lead = text[start : max(at, start)].strip()
    between = any(map(lead.startswith, specials)) and any(map(lead.endswith, specials))
    return at + len(content) if between and len(lead) <= HEADER_CHARS else None


def behind_header(text: str, start: int, answer: str, specials: Sequence[str]) -> Range | None:
    """Return the range of an answer with a header before its words, or None.

    A header such as `<|channel|>final<|message|>` begins and ends with special tokens. The prompt
    does not contain it, so the model has to write it, and it is trained. An empty thought is not a
    header.
    """
    for at, end in answer_places(text, start, answer, specials):
        lead = text[start:at].strip()
        between = any(map(lead.startswith, specials)) and any(map(lead.endswith, specials))
        if between and len(lead) <= HEADER_CHARS and not text[end:].strip():
            return at if EMPTY_THOUGHT.fullmatch(lead) else start, end
    return None


def call_range(text: str, start: int, at: int, turn: Turn, specials: Sequence[str]) -> Range:
    """Return the range of an answer with its calls, up to the special token that ends `text`.

    Raises NotThere.
    """
    end = len(text.rstrip())
    last = next((s for s in specials if text.endswith(s, start, end)), None)
    if last is None:
        raise NotThere("no end-of-turn token follows a tool call")
    for call in turn.calls:
        at = text.find(call.name, at, end - len(last))
        if at < 0:
            raise NotThere("the template does not show a tool call: it may not know of tools")
        at += len(call.name)
        at = show_arguments(text, at, end, call)
    return start, end


def show_arguments(text: str, start: int, end: int, call: Call) -> int:
    """Return where the names of a call's arguments end, which the template shows after its name.

    Raises NotThere if it does not, or if it writes them as Python does.
    """
    if not isinstance(call.arguments, dict):
        return start
    python = str(call.arguments)
    if python != json.dumps(call.arguments, ensure_ascii=False) and python in text[start:end]:
        raise NotThere("the template shows the arguments of a call as Python writes them")
    shown = text[start:end]
    for name in call.arguments:
        if name not in shown and json.dumps(name)[1:-1] not in shown:
            raise NotThere("the template does not show the arguments of a call")
    return start


def words(text: str, start: int, content: str) -> int | None:
    """Return where the words of a message end, if `text` has them from `start` on; else None."""
    end = skip_space(text, start, content.strip())
    found = parted(content)
    if end is None and found is not None:
        # The prompt may have opened the thought already.
        opened = skip_space(text, start, found.tags.opening.strip())
        end = skip_space(text, start if opened is None else opened, found.thought)
        for word in (found.tags.closing.strip(), found.answer):
            end = None if end is None else skip_space(text, end, word)
    return end


def written(turn: Turn, specials: Sequence[str]) -> tuple[str, int, int] | None:
    """Return (prompt followed by the answer as the message has it, start, end of the answer).

    None unless the template itself puts the answer after the same header and ends it.
    """
    if turn.prompt is None:
        return None
    if turn.thought is not None:
        return grafted(turn, turn.prompt, specials)
    opened = OPENED.search(turn.prompt)
    found = parted(turn.content)
    prompt, own, lead = turn.prompt, turn.content.strip(), ""
    if opened and found:
        # The message has a thought, even where the prompt says that there is none.
        prompt = prompt[: opened.start()] if opened[1] else prompt
        own = own if opened[1] else own.removeprefix(found.tags.opening.strip()).lstrip()
    elif opened and not opened[1]:
        lead = "\n</think>\n\n"
    header = turn.prompt[: opened.start()] if opened else prompt
    if turn.calls:
        made = written_calls(turn, header, prompt + lead, own, specials)
        return made or grafted(turn, turn.prompt, specials)
    behind = behind_prompt(turn, header, specials)
    if behind is None:
        return None if opened else grafted(turn, turn.prompt, specials)
    space, tail = behind
    text = prompt + lead + ("" if opened else space) + own + tail
    return text, len(prompt) + len(lead), len(text)


def grafted(turn: Turn, prompt: str, specials: Sequence[str]) -> tuple[str, int, int] | None:
    """Return the turn as the template shows it, behind its prompt: (text, start, end), or None.

    A template may show the turns before an answer differently in its prompt: gpt-oss shows the
    thought before a call only until a final answer follows.
    """
    ending = prompt[max((prompt.rfind(s) for s in specials), default=-1) :]
    shown = turn.until.text
    at = shown.rfind(ending) if any(map(ending.startswith, specials)) else -1
    while at >= 0:
        text = prompt + shown[at + len(ending) :]
        try:
            return text, *inside(text, len(prompt), turn, specials)
        except NotThere:
            at = shown.rfind(ending, 0, at)
    return None


def written_calls(
    turn: Turn, header: str, prompt: str, own: str, specials: Sequence[str]
) -> tuple[str, int, int] | None:
    """Return what `written` does, for an answer with calls: they follow their own prompt.

    None unless the template puts the answer after the same header.
    """
    shown, found = turn.until.text, parted(turn.content)
    if not shown.startswith(header) or (header == turn.prompt and found is None):
        return None
    tail = shown[len(header) :].rstrip()
    empty = EMPTY_THOUGHT.match(tail)
    tail = tail[empty.end() :] if empty else tail
    if found is not None:  # the template was not given the thought
        closing = found.tags.closing
        tail = own[: own.index(closing.strip())].rstrip() + closing + tail
    text = prompt + tail
    try:
        start, end = inside(text, len(prompt), turn, specials)
    except NotThere:
        return None
    return text, start, end


def behind_prompt(turn: Turn, header: str, specials: Sequence[str]) -> tuple[str, str] | None:
    """Return (space before the answer, its end) as the template has them, or None.

    The template must put the answer after that header, or after one that the prompt continues with
    a few words.
    """
    shown, prompt = turn.until.text, turn.prompt or ""
    for answer in {turn.content.strip(): 0, last_words(turn.content): 0}:
        for at, end in answer_places(shown, 0, answer, specials):
            before = EMPTY_LAST.sub("", shown[:at]).rstrip()
            more = prompt[len(before) :] if prompt.startswith(before) else None
            same = common_end(header.rstrip(), before)
            if not any(s in same for s in specials) and (more is None or len(more) > HEADER_CHARS):
                continue
            is_new = header == header.rstrip() and not (more and more.strip())
            return shown[len(before) : at] if is_new else "", shown[at + len(answer) : end]
    return None


def answer_places(text: str, start: int, answer: str, specials: Sequence[str]) -> Iterator[Range]:
    """Yield (start of the answer, end of its end-of-turn token) of each place, last one first.

    The last place comes first because the words of an answer may also occur earlier.
    """
    at = text.rfind(answer, start) if answer else -1
    while at >= 0:
        end = ended(text, at + len(answer), specials)
        if end is not None:
            yield at, end
        at = text.rfind(answer, start, at + len(answer) - 1)


def ended(text: str, at: int, specials: Sequence[str]) -> int | None:
    """Return the end of the special token that follows at `at`, or None if none does."""
    ends = (skip_space(text, at, special) for special in specials)
    return next((end for end in ends if end is not None), None)


def common_end(one: str, other: str) -> str:
    """Return the longest ending that two texts share."""
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]


def skip_space(text: str, start: int, word: str) -> int | None:
    """Return where `word` ends if only white space lies between it and `start`; else None."""
    while start < len(text) and text[start].isspace() and not text.startswith(word, start):
        start += 1
    return start + len(word) if text.startswith(word, start) else None


def marked_text(text: str, start: int, end: int) -> str:
    """Return the text with its trained part in ⟦ ⟧."""
    return f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"


def wrong_tokens(reason: str, example: str) -> CannotTrain:
    """Return the error for a row whose mask would be wrong, with its text as the example."""
    return CannotTrain(
        "mask", f"The loss mask would be wrong: {reason}.", suspect=True, example=example[:4000]
    )
