"""Finds each answer in the text of its conversation: the characters that are trained.

The text up to an answer, as the model is prompted with it, must be the beginning of the whole text,
and the answer is what follows, with the special token that ends the turn; if a template marks
`{% generation %}`, its marks are used instead. Either way, the text found must be the words of the
message.

Text that a template puts between special tokens before an answer is a header, and is not trained.

Where the template shows an answer differently than the model would have to give it (Mistral leaves
the system prompt out once there is an answer, DeepSeek drops the thought), the answer is written
after its prompt as the message has it.

Reasoning models: an answer may contain a thought, `<think>…</think>`, which the template may put on
lines of its own; it is trained, because the model must learn to think. Where a message contains no
thought and the template puts an empty one, that is the template's, and is not trained.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.model.template_sandbox import Rendered
from shared.errors import CannotTrain

EMPTY_THOUGHT = re.compile(r"\s*(?:<think>)?\s*</think>\s*")
OPENED = re.compile(r"(?:<think>\s*)?(</think>\s*)$|<think>\s*$")  # by a prompt; 1: closed, too
EMPTY_LAST = re.compile(r"(?:<think>)?\s*</think>\s*$")
HEADER_CHARS = 100  # the longest header that is accepted before an answer
THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>(.*)", re.DOTALL)

Range = tuple[int, int]


class NotThere(Exception):
    """The text does not contain the answer as it should; the message says why."""


@dataclass(frozen=True)
class Turn:
    """An assistant's message: its index and words, its prompt, and the conversation up to its end.

    `prompt` is None if the template marks what is generated. `calls`: the names of the functions
    that it calls, which the template writes after its words.
    """

    index: int
    content: str
    prompt: str | None
    until: Rendered
    calls: tuple[str, ...] = ()


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
    at = words(text, start, turn.content)
    if at is None and not turn.calls:
        headed = behind_header(text, start, turn.content.strip(), specials)
        if headed is not None:
            return headed
    if at is None or (turn.calls and not turn.content.strip()):
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


def behind_header(text: str, start: int, answer: str, specials: Sequence[str]) -> Range | None:
    """Return the range of an answer that follows a header of the template's own, or None.

    A header such as `<|channel|>final<|message|>` begins and ends with special tokens, so the
    assistant does not say it.
    """
    for at, end in answer_places(text, start, answer, specials):
        lead = text[start:at].strip()
        between = any(map(lead.startswith, specials)) and any(map(lead.endswith, specials))
        if between and len(lead) <= HEADER_CHARS and not text[end:].strip():
            return at, end
    return None


def call_range(text: str, start: int, at: int, turn: Turn, specials: Sequence[str]) -> Range:
    """Return the range of an answer with its calls, up to the special token that ends `text`.

    Raises NotThere.
    """
    end = len(text.rstrip())
    last = next((s for s in specials if text.endswith(s, start, end)), None)
    if last is None:
        raise NotThere("no end-of-turn token follows a tool call")
    for name in turn.calls:
        at = text.find(name, at, end - len(last))
        if at < 0:
            raise NotThere("the template does not show a tool call: it may not know of tools")
        at += len(name)
    return start, end


def words(text: str, start: int, content: str) -> int | None:
    """Return where the words of a message end, if `text` has them from `start` on; else None."""
    end = skip_space(text, start, content.strip())
    thought = THOUGHT.fullmatch(content)
    if end is None and thought is not None:
        # The prompt may have opened the thought already.
        opened = skip_space(text, start, "<think>")
        end = skip_space(text, start if opened is None else opened, thought[1].strip())
        for word in ("</think>", thought[2].strip()):
            end = None if end is None else skip_space(text, end, word)
    return end


def written(turn: Turn, specials: Sequence[str]) -> tuple[str, int, int] | None:
    """Return (prompt followed by the answer as the message has it, start, end of the answer).

    None unless the template itself puts the answer after the same header and ends it.
    """
    if turn.prompt is None or turn.calls:
        return None
    opened = OPENED.search(turn.prompt)
    thought = THOUGHT.fullmatch(turn.content)
    prompt, own, lead = turn.prompt, turn.content.strip(), ""
    if opened and thought:
        # The message has a thought, even where the prompt says that there is none.
        prompt = prompt[: opened.start()] if opened[1] else prompt
        own = own if opened[1] else own.removeprefix("<think>").lstrip()
    elif opened and not opened[1]:
        lead = "\n</think>\n\n"
    found = behind_prompt(turn, turn.prompt[: opened.start()] if opened else prompt, specials)
    if found is None:
        return None
    space, tail = found
    text = prompt + lead + ("" if opened else space) + own + tail
    return text, len(prompt) + len(lead), len(text)


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


def last_words(content: str) -> str:
    """Return an answer without its thought."""
    thought = THOUGHT.fullmatch(content)
    return (thought[2] if thought else content).strip()


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
