"""Renders a conversation for its answers: each with its prompt, and with the token that ends it."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.model.chat.mask import Call, Turn, answer_places, ended
from services.model.chat.talk import PROBE_THOUGHT, Talk, thought_probes
from services.model.chat.thoughts import Tags, last_words, tags_of
from services.model.template_sandbox import (
    Rendered,
    Rendering,
    Template,
    TemplateRefuses,
    marks_generation,
    renderer,
)
from shared.errors import CannotTrain

# Where a template does not show the conversation up to an answer, as nobody has asked yet.
UNSHOWN = Rendered("")


class Renders:
    """A template that is rendered in a child process.

    `specials`: the tokens that a tokenizer finds in any text, the longest first. `stops`: those at
    which the model stops.
    """

    def __init__(self, template: Template, specials: list[str], stops: list[str]) -> None:
        self.template, self.specials, self.stops = template, specials, stops
        self.marks = marks_generation(template.text)
        self.tags: Tags = tags_of(template.text)

    def rendered(self, wishes: Sequence[Rendering]) -> list[Rendered]:
        """Return each rendering.

        Raises TemplateRefuses if the template refuses one, or CannotTrain (template) if there is no
        template or it cannot be used.
        """
        found = self.results(wishes)
        for result in found:
            if isinstance(result, str):
                raise TemplateRefuses(result)
        return [result for result in found if not isinstance(result, str)]

    def results(self, wishes: Sequence[Rendering]) -> list[Rendered | str]:
        """Return each rendering, or why the template refuses it. Raises CannotTrain (template)."""
        if not self.template.text:
            raise CannotTrain(
                "template",
                "This base has no chat template, which rows of messages need: make a lineage with "
                "one (duramen lineage new NAME --base BASE --chat-template chatml).",
            )
        return renderer().render(self.template, wishes)

    @functools.cached_property
    def thought_fields(self) -> tuple[str | None, str | None]:
        """The fields from which the template reads the thought of an answer, and of a call."""
        found: list[str | None] = []
        for calls in (False, True):
            probes = list(thought_probes(calls))
            results = self.results([Rendering(messages) for _, messages in probes])
            shown = (
                field
                for (field, _), result in zip(probes, results, strict=True)
                if isinstance(result, Rendered) and PROBE_THOUGHT in result.text
            )
            found.append(next(shown, None))
        return found[0], found[1]

    def turns(self, talk: Talk) -> tuple[list[Turn], Rendered]:
        """Return (the assistant's turns, the whole conversation), rendered."""
        messages = talk.messages
        at = [n for n, m in enumerate(messages) if m.role == "assistant"]
        ends = [len(messages), *(n + 1 for n in at)]
        whole, *untils = self.results([talk.wish(end) for end in ends])
        if isinstance(whole, str):
            raise TemplateRefuses(whole)
        prompts: list[Rendered | str | None] = [None] * len(at)
        if not self.marks:
            prompts = [*self.results([talk.wish(n, prompt=True) for n in at])]
        found = zip(at, untils, prompts, strict=True)
        turns = [turn_at(talk, n, until, prompt) for n, until, prompt in found]
        closed = [self.closed(talk, turn) if turn.weight else turn for turn in turns]
        if turns and whole.text == turns[-1].until.text:
            whole = closed[-1].until if closed[-1] is not turns[-1] else whole
        return closed, whole

    def closed(self, talk: Talk, turn: Turn) -> Turn:
        """Return the turn with its end-of-turn token.

        Some templates (GLM) end a turn with the token that begins the next one, and their models
        stop at that token.
        """
        text = turn.until.text.rstrip()
        ends = self.stops if turn.calls else self.specials
        if turn.until.marks is not None or any(map(text.endswith, ends)):
            return turn
        if turn.calls:
            return self.closed_call(talk, turn, text)
        more = [{"role": "user", "content": "?"}]
        try:
            (longer,) = self.rendered([talk.wish(turn.index + 1, more=more)])
        except TemplateRefuses:
            return turn
        answer = last_words(turn.content)
        for at, end in answer_places(longer.text, 0, answer, self.stops):
            return replace(turn, until=Rendered(text + longer.text[at + len(answer) : end]))
        return turn

    def closed_call(self, talk: Talk, turn: Turn, text: str) -> Turn:
        """Return a turn of calls with the token at which the model stops, if a result follows it.

        `text`: of the conversation up to the turn.
        """
        more = [{"role": "tool", "content": "?", "name": call.name} for call in turn.calls]
        following = talk.handed[turn.index + 1 : turn.index + 2]
        more = following if following and following[0]["role"] == "tool" else more
        try:
            (longer,) = self.rendered([talk.wish(turn.index + 1, more=more)])
        except TemplateRefuses:
            return turn
        end = ended(longer.text, len(text), self.stops) if longer.text.startswith(text) else None
        return turn if end is None else replace(turn, until=Rendered(longer.text[:end]))


def turn_at(talk: Talk, n: int, until: Rendered | str, prompt: Rendered | str | None) -> Turn:
    """Return the answer at index `n`. `until`, `prompt`: its renderings, or why they are refused.

    An answer to nobody, for which the template has no prompt, is context. Raises TemplateRefuses
    for any other that is refused.
    """
    message, (content, thought) = talk.messages[n], talk.sought(n)
    turn = Turn(
        n,
        content,
        prompt.text if isinstance(prompt, Rendered) else None,
        UNSHOWN if isinstance(until, str) else until,
        tuple(Call(**only_call(call)) for call in message.tool_calls or ()),
        thought,
        1.0 if message.weight is None else message.weight,
        message.content,
        message.spans,
    )
    for refused in (until, prompt):
        if isinstance(refused, str):
            if not is_opening(talk, turn):
                raise TemplateRefuses(refused)
            turn = replace(turn, weight=0.0)
    return turn


def is_opening(talk: Talk, turn: Turn) -> bool:
    """Return whether nobody was asked before an answer: it is context where it must be."""
    return not any(m.role in ("user", "tool") for m in talk.messages[: turn.index])


def only_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return name and arguments of a stored call."""
    function = call["function"]
    return {"name": function["name"], "arguments": function.get("arguments")}
