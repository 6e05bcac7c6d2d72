"""Turns a chat into tokens and a mask of what is trained: the assistant's words and end of turn.

A template may show an answer differently once the conversation continues: reasoning models drop
earlier thoughts, others move the system prompt to the last question. Such an answer is trained as
the model will have to give it, in a sequence of its own that ends with it; one row then becomes
several sequences. A row that cannot be trained as it was written is refused, with the place shown,
before anything is trained.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from transformers import AutoTokenizer

from services.model.encoded import Encoded, joined
from services.model.mask import (
    NotThere,
    Range,
    Turn,
    answer_places,
    find_answer,
    last_words,
    marked_text,
    written,
    wrong_tokens,
)
from services.model.template_sandbox import (
    Rendered,
    Rendering,
    Template,
    TemplateRefuses,
    marks_generation,
    renderer,
)
from shared.errors import CannotTrain
from shared.formats.dataset import ChatTurn

__all__ = ["Chat", "TemplateRefuses"]

Tools = Sequence[dict[str, Any]] | None


class Chat:
    """A tokenizer with a chat template and a clock that stands still.

    `chat_template`: used instead of the base's own; without either, no conversation can be
    rendered.
    """

    def __init__(self, base_dir: Path, clock: str, chat_template: str | None = None) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                str(base_dir), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise CannotTrain("base", f"The base's tokenizer cannot be loaded: {error}") from error
        file = base_dir / "tokenizer.json"
        if not self.tokenizer.is_fast or not file.is_file():
            raise CannotTrain("base", f"{base_dir} contains no tokenizer.json")
        self.tokenizer_sha256 = hashlib.sha256(file.read_bytes())
        text = chat_template or default_template(self.tokenizer.chat_template)
        self.template = Template(text or "", plain_token(self.tokenizer.special_tokens_map), clock)
        self.marks = marks_generation(self.template.text)
        self.specials = sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)
        self.stops = stop_tokens(base_dir, self.tokenizer)

    @property
    def hashes(self) -> dict[str, str]:
        return {
            "tokenizer_sha256": self.tokenizer_sha256.hexdigest(),
            "template_sha256": hashlib.sha256(self.template.text.encode()).hexdigest(),
        }

    def rendered(self, wishes: Sequence[Rendering]) -> list[Rendered]:
        """Return each rendering.

        Raises TemplateRefuses if the template refuses one, or CannotTrain (template) if there is no
        template or it cannot be used.
        """
        if not self.template.text:
            raise CannotTrain(
                "template",
                "This base has no chat template, which rows of messages need: make a lineage with "
                "one (duramen lineage new NAME --base BASE --chat-template chatml).",
            )
        found = []
        for result in renderer().render(self.template, wishes):
            if isinstance(result, str):
                raise TemplateRefuses(result)
            found.append(result)
        return found

    def render(self, messages: Sequence[ChatTurn], prompt: bool = False) -> str:
        """Return the text that the model sees. `prompt`: it ends where the assistant would begin.

        Raises as `rendered` does.
        """
        return self.rendered([wish(messages, prompt)])[0].text

    def tokens(self, text: str) -> list[int]:
        # Without the tokenizer's own special tokens: the template has printed those it wants.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_text(self, text: str) -> Encoded:
        """Encode plain text without a template, between the tokenizer's own special tokens.

        All of it is trained.
        """
        ids: list[int] = self.tokenizer(text)["input_ids"]
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids = [*ids, int(end)]
        return Encoded(np.array(ids, np.int32), np.ones(len(ids), np.bool_))

    def encode(self, messages: Sequence[ChatTurn], tools: Tools = None) -> Encoded:
        """Return the verified tokens and mask of a conversation.

        Raises TemplateRefuses, or CannotTrain (mask, template).
        """
        turns, whole = self.turns(messages, tools)
        left, text = list(range(len(turns))), whole
        views = {} if turns else {0: self.view(self.tokens(whole.text), {})}
        while left:
            last = left[-1]
            view, found = self.view_of(turns, left, text)
            if found:
                views[max(found)] = view
                left = [n for n in left if n not in found]
            elif text is turns[last].until:
                views[last] = self.written(turns[last]) or self.refuse(turns[last], text, last)
                left = left[:-1]
            text = turns[left[-1]].until if left else text
        return joined([view for _, view in sorted(views.items())])

    def turns(
        self, messages: Sequence[ChatTurn], tools: Tools = None
    ) -> tuple[list[Turn], Rendered]:
        """Return (the assistant's turns, the whole conversation), rendered."""
        at = [n for n, m in enumerate(messages) if m.role == "assistant"]
        wishes = [wish(messages[:n], tools=tools) for n in (len(messages), *(n + 1 for n in at))]
        if not self.marks:
            wishes += [wish(messages[:n], prompt=True, tools=tools) for n in at]
        whole, *rest = self.rendered(wishes)
        untils, prompts = rest[: len(at)], [r.text for r in rest[len(at) :]]
        turns = [
            Turn(
                n,
                messages[n].content,
                prompts[order] if prompts else None,
                untils[order],
                tuple(call["function"]["name"] for call in messages[n].tool_calls or ()),
            )
            for order, n in enumerate(at)
        ]
        closed = [self.closed(messages, turn, tools) for turn in turns]
        if turns and whole.text == turns[-1].until.text:
            whole = closed[-1].until if closed[-1] is not turns[-1] else whole
        return closed, whole

    def closed(self, messages: Sequence[ChatTurn], turn: Turn, tools: Tools) -> Turn:
        """Return the turn with its end-of-turn token.

        Some templates (GLM) end a turn with the token that begins the next one, and their models
        stop at that token.
        """
        text = turn.until.text.rstrip()
        if turn.until.marks is not None or any(map(text.endswith, self.specials)):
            return turn
        asked = [*messages[: turn.index + 1], ChatTurn(role="user", content="?")]
        try:
            (longer,) = self.rendered([wish(asked, tools=tools)])
        except TemplateRefuses:
            return turn
        answer = last_words(turn.content)
        for at, end in answer_places(longer.text, 0, answer, self.stops):
            return replace(turn, until=Rendered(text + longer.text[at + len(answer) : end]))
        return turn

    def view_of(
        self, turns: list[Turn], asked: list[int], text: Rendered
    ) -> tuple[Encoded, list[int]]:
        """Return (the text as tokens, the turns that are trained in it).

        Those are the turns of `asked` that the text shows unchanged. In a text that ends with a
        turn, none is found unless that last turn is.
        """
        own = next((n for n, t in enumerate(turns) if text is t.until), None)
        count = len(turns) if own is None else own + 1
        batch = self.tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
        ranges = {}
        for n in asked:
            try:
                start, end = find_answer(turns[n], text, n, count, self.specials)
                ranges[n] = self.tokens_at(text.text, batch, start, end)
            except NotThere:
                continue
        if own is not None and own not in ranges:
            ranges = {}
        return self.view(batch["input_ids"], ranges), list(ranges)

    def tokens_at(self, text: str, batch: Any, start: int, end: int) -> Range:
        """Return the token range of a range of characters.

        Raises NotThere if a token straddles one of its ends, or the tokens are of other words.
        """
        before, until = self.tokens(text[:start]), self.tokens(text[:end])
        if batch["input_ids"][: len(before)] != before:
            raise NotThere("a token straddles the beginning of an answer")
        if batch["input_ids"][: len(until)] != until:
            raise NotThere("a token straddles the end of an answer")
        # A second check, in another way: by the places that the tokenizer gives for its tokens.
        offsets = batch["offset_mapping"][len(before) : len(until)]
        if not offsets or text[offsets[0][0] : offsets[-1][1]].strip() != text[start:end].strip():
            raise NotThere("the tokens of an answer are not those of its words")
        return len(before), len(until)

    def written(self, turn: Turn) -> Encoded | None:
        """Return the answer written after its prompt, or None; for templates that alter answers."""
        made = written(turn, self.specials)
        if made is None:
            return None
        text, start, end = made
        batch = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        try:
            found = self.tokens_at(text, batch, start, end)
        except NotThere:
            return None
        return self.view(batch["input_ids"], {0: found})

    def refuse(self, turn: Turn, text: Rendered, order: int) -> NoReturn:
        """Refuse a turn that its text does not show as written.

        Raises CannotTrain (mask), with the reason and the text that should end with the turn.
        """
        example = text.text
        if turn.prompt is not None and example.startswith(turn.prompt):
            example = marked_text(example, len(turn.prompt), len(example))
        elif text.marks:
            for start, end in reversed(text.marks):
                example = marked_text(example, start, end)
        batch = self.tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
        try:
            start, end = find_answer(turn, text, order, order + 1, self.specials)
            self.tokens_at(text.text, batch, start, end)
        except NotThere as error:
            raise wrong_tokens(str(error), example) from error
        raise AssertionError("a turn that is there was not found")

    def view(self, ids: list[int], ranges: dict[int, Range]) -> Encoded:
        trained = np.zeros(len(ids), np.bool_)
        for start, end in ranges.values():
            trained[start:end] = True
        return Encoded(np.array(ids, np.int32), trained)


def wish(messages: Sequence[ChatTurn], prompt: bool = False, tools: Tools = None) -> Rendering:
    plain = [m.model_dump(mode="json") for m in messages]
    return Rendering(plain, prompt, list(tools) if tools else None)


def stop_tokens(base_dir: Path, tokenizer: Any) -> list[str]:
    """Return the tokens at which the model must stop, according to its files."""
    numbers = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        try:
            found = json.loads((base_dir / name).read_bytes()).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        numbers.update(found if isinstance(found, list) else [found])
    tokens = tokenizer.convert_ids_to_tokens(sorted(n for n in numbers if isinstance(n, int)))
    return [token for token in tokens if token]


def default_template(found: Any) -> str | None:
    """Return the tokenizer's template for conversations, or None.

    Some tokenizers have several templates by name; that is then the default one.
    """
    if isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) else None


def plain_token(specials: dict[str, Any]) -> dict[str, Any]:
    """Return special tokens as strings: some are objects that say how they are split."""
    return {
        name: [str(t) for t in token] if isinstance(token, list | tuple) else str(token)
        for name, token in specials.items()
    }
