"""Where an answer stands in the text of its conversation: what is trained, character by character.

The text up to an answer, as the model is prompted with it, must be the beginning of the whole text,
and the answer is what follows, with the special token that ends the turn; a template that marks
`{% generation %}` is asked instead. Either way what is found must be the words of the message.

What a template puts between special tokens before an answer is a header, and is not trained either.

Where the template shows an answer otherwise than the model would have to give it (Mistral leaves
the system prompt out once there is an answer, DeepSeek drops the thought), it is written behind
its prompt as the message has it.

Reasoning models: an answer may hold a thought, `<think>…</think>`, which the template may set in
lines of its own; it is trained, for the model is to think. Where a message holds no thought and the
template puts an empty one, that is the template's, and is not trained.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.model.template_sandbox import Rendered
from shared.errors import CannotTrain

EMPTY_THOUGHT = re.compile(r"\s*(?:<think>)?\s*</think>\s*")
OPENED = re.compile(r"(?:<think>\s*)?(</think>\s*)$|<think>\s*$")  # by a prompt; 1: closed again
EMPTY_LAST = re.compile(r"(?:<think>)?\s*</think>\s*$")
HEADER_CHARS = 100  # longest header that a template puts before an answer
THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>(.*)", re.DOTALL)

Range = tuple[int, int]


class NotThere(Exception):
    """This text does not hold the answer as it should; why."""


@dataclass(frozen=True)
class Turn:
    """An assistant's message: its index and words, the prompt for it, the talk that ends with it.

    `prompt` is None if the template marks what is generated. `calls`: the names of the functions
    that it calls, which the template writes behind its words.
    """

    index: int
    content: str
    prompt: str | None
    until: Rendered
    calls: tuple[str, ...] = ()


def find_answer(
    turn: Turn, text: Rendered, order: int, turns: int, specials: Sequence[str]
) -> Range:
    """The characters [start, end) of `text` that are trained for this turn, its end included.

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
    ranges = merged(text.marks or [])
    if len(ranges) != turns:
        raise NotThere(f"{turns} answers, but {len(ranges)} are marked as generated")
    first, last = ranges[order]
    start, end = inside(text.text[:last], first, turn, specials)
    if text.text[end:last].strip():
        raise NotThere("more than the answer is marked as generated")
    return start, end


def merged(ranges: Sequence[Range]) -> list[Range]:
    """Ranges that touch, as one."""
    found: list[Range] = []
    for start, end in ranges:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        elif end > start:
            found.append((start, end))
    return found


def inside(text: str, start: int, turn: Turn, specials: Sequence[str]) -> Range:
    """The range of the answer that begins at `start`, after an empty thought of the template's."""
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
    """The answer behind a header of the template's own, `<|channel|>final<|message|>`: between
    special tokens, and so nothing that the assistant says."""
    for at, end in answer_places(text, start, answer, specials):
        lead = text[start:at].strip()
        between = any(map(lead.startswith, specials)) and any(map(lead.endswith, specials))
        if between and len(lead) <= HEADER_CHARS and not text[end:].strip():
            return at, end
    return None


def call_range(text: str, start: int, at: int, turn: Turn, specials: Sequence[str]) -> Range:
    """The range of an answer with its calls: up to the special token that ends `text`."""
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
    """Where the words of a message end, if `text` says them from `start`; else None."""
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
    """(prompt with the answer behind it as the message has it, start, end of the answer).

    None unless the template itself puts the answer behind the same header and ends it.
    """
    if turn.prompt is None or turn.calls:
        return None
    opened = OPENED.search(turn.prompt)
    thought = THOUGHT.fullmatch(turn.content)
    prompt, own, lead = turn.prompt, turn.content.strip(), ""
    if opened and thought:
        # Where the prompt says that there is no thought, the message knows better.
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
    """(space before the answer, its end) as the template has them, if it puts the answer behind
    that header, or behind one that the prompt goes on from with a few words."""
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
    """An answer without its thought."""
    thought = THOUGHT.fullmatch(content)
    return (thought[2] if thought else content).strip()


def answer_places(text: str, start: int, answer: str, specials: Sequence[str]) -> Iterator[Range]:
    """Where an answer stands with its end-of-turn token, (answer's start, token's end), last one
    first: its words may also occur in what stands before."""
    at = text.rfind(answer, start) if answer else -1
    while at >= 0:
        end = ended(text, at + len(answer), specials)
        if end is not None:
            yield at, end
        at = text.rfind(answer, start, at + len(answer) - 1)


def ended(text: str, at: int, specials: Sequence[str]) -> int | None:
    """Where the special token ends that follows at `at`, if one does."""
    ends = (skip_space(text, at, special) for special in specials)
    return next((end for end in ends if end is not None), None)


def common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]


def skip_space(text: str, start: int, word: str) -> int | None:
    """Where `word` ends, if nothing but space lies between it and `start`; else None."""
    while start < len(text) and text[start].isspace() and not text.startswith(word, start):
        start += 1
    return start + len(word) if text.startswith(word, start) else None


def marked_text(text: str, start: int, end: int) -> str:
    """The text with its trained part in ⟦ ⟧."""
    return f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"


def wrong_tokens(reason: str, example: str) -> CannotTrain:
    return CannotTrain(
        "mask", f"The loss mask would be wrong: {reason}.", suspect=True, example=example[:4000]
    )
