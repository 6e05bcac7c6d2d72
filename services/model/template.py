"""Turns a chat into tokens and a mask of what is trained: the assistant's words and end of turn.

A template may show an answer differently once the conversation continues: reasoning models drop
earlier thoughts, others move the system prompt to the last question. Such an answer is trained as
the model will have to give it, in a sequence of its own that ends with it; one row then becomes
several sequences. A row that cannot be trained as it was written is refused, with the place shown,
before anything is trained.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from transformers import AutoTokenizer

from services.model.chat.mask import (
    NotThere,
    Range,
    Turn,
    find_answer,
    marked_text,
    written,
    wrong_tokens,
)
from services.model.chat.plain_tokens import PlainTokens, Read
from services.model.chat.rendering import Renders, is_opening
from services.model.chat.spans import shown_spans
from services.model.chat.talk import (
    CALLABLE,
    CALLING,
    Form,
    Options,
    Talk,
    Tools,
    call_forms,
    talk_as,
    thinks,
)
from services.model.encoded import Encoded, encoded, joined
from services.model.template_sandbox import Rendered, Template, TemplateRefuses
from shared.errors import CannotTrain
from shared.formats.dataset import ChatTurn
from shared.formats.turn_tokens import STRIKE, turn_tokens

__all__ = ["Chat", "TemplateRefuses"]


class Learned(NamedTuple):
    """The tokens of an answer that are trained, as ranges, and their weight."""

    tokens: list[Range]
    weight: float


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
        self.specials = sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)
        self.renders = Renders(
            Template(text or "", plain_token(self.tokenizer.special_tokens_map), clock),
            self.specials,
            stop_tokens(base_dir, self.tokenizer),
        )
        self.plain = PlainTokens(self.tokenizer, self.plain_specials())

    @property
    def hashes(self) -> dict[str, str]:
        return {
            "tokenizer_sha256": self.tokenizer_sha256.hexdigest(),
            "template_sha256": hashlib.sha256(self.renders.template.text.encode()).hexdigest(),
        }

    def render(self, messages: Sequence[ChatTurn], prompt: bool = False) -> str:
        """Return the text that the model sees. `prompt`: it ends where the assistant would begin.

        Raises as `rendered` does.
        """
        talk = talk_as(Form(), self.renders.tags, messages, None, None)
        return self.renders.rendered([talk.wish(len(messages), prompt)])[0].text

    def plain_specials(self) -> set[str]:
        """Return the special tokens that are text where a row has them in its words."""
        added = self.tokenizer.added_tokens_decoder.values()
        specials = {t.content for t in added if t.special}
        named = self.renders.template.specials
        ends = [*self.renders.stops, *(str(named.get(n)) for n in ("bos_token", "eos_token"))]
        turns = turn_tokens(specials, self.renders.template.text, ends)
        return (specials - turns) | specials.intersection(STRIKE)

    def tokens(self, text: str) -> list[int]:
        # Without the tokenizer's own special tokens: the template has printed those it wants.
        return self.plain.tokenized(text).ids

    def encode_text(self, text: str, weight: float | None = None) -> Encoded:
        """Encode plain text without a template, between the tokenizer's own special tokens.

        All of it is trained, with this weight (None: 1).
        """
        ids: list[int] = self.tokenizer(text)["input_ids"]
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids = [*ids, int(end)]
        return encoded(ids, np.full(len(ids), 1.0 if weight is None else weight, np.float32))

    def encode(
        self, messages: Sequence[ChatTurn], tools: Tools = None, options: Options = None
    ) -> Encoded:
        """Return the verified tokens and mask of a conversation. `options`: for the template.

        It is tried in each form in which this template may want it. Raises TemplateRefuses, or
        CannotTrain (mask, template).
        """
        messages, tools = self.plain.disguised(messages, tools)
        refused: TemplateRefuses | CannotTrain | None = None
        for form in self.forms(messages):
            try:
                return self.encode_as(talk_as(form, self.renders.tags, messages, tools, options))
            except TemplateRefuses as error:
                refused = refused or error
            except CannotTrain as error:
                if error.kind != "mask":
                    raise
                refused = refused or error
        assert refused is not None
        raise refused

    def forms(self, messages: Sequence[ChatTurn]) -> list[Form]:
        """Return the forms to try for a conversation, in order; mostly there is one."""
        calls = any(m.tool_calls for m in messages)
        found = [self.call_form, Form()] if calls else [Form()]
        if any(map(thinks, messages)):
            plain, called = self.renders.thought_fields
            fields = [form._replace(thought=plain, call_thought=called) for form in found]
            found = [*fields, *found, *(form._replace(apart=True) for form in fields)]
        if calls:
            first = found[0]
            found += [first._replace(null_content=not first.null_content)]
        return list(dict.fromkeys(found))

    @functools.cached_property
    def call_form(self) -> Form:
        """The first form in which the template shows a call and its answer as they must be."""
        for count in (len(CALLING), 2):
            for form in call_forms():
                talk = talk_as(form, self.renders.tags, CALLING[:count], CALLABLE, None)
                try:
                    self.encode_as(talk)
                except (TemplateRefuses, CannotTrain):
                    continue
                return form
        return Form()

    def encode_as(self, talk: Talk) -> Encoded:
        """Return what `encode` does, for a conversation in one form."""
        turns, whole = self.renders.turns(talk)
        left, text = [n for n, turn in enumerate(turns) if turn.weight], whole
        views = {} if left else {0: self.view(self.tokens(whole.text), [])}
        while left:
            last = left[-1]
            view, found = self.view_of(turns, left, text)
            if found:
                views[max(found)] = view
                left = [n for n in left if n not in found]
            elif text is turns[last].until:
                if not is_opening(talk, turns[last]):
                    views[last] = self.written(turns[last]) or self.refuse(turns[last], text, last)
                left = left[:-1]
            text = turns[left[-1]].until if left else text
        return joined([view for _, view in sorted(views.items())])

    def view_of(
        self, turns: list[Turn], asked: list[int], text: Rendered
    ) -> tuple[Encoded, list[int]]:
        """Return (the text as tokens, the turns that are trained in it).

        Those are the turns of `asked` that the text shows unchanged. In a text that ends with a
        turn, none is found unless that last turn is.
        """
        own = next((n for n, t in enumerate(turns) if text is t.until), None)
        count = len(turns) if own is None else own + 1
        read = self.plain.tokenized(text.text)
        found = {}
        for n in asked:
            try:
                start, end = find_answer(turns[n], text, n, count, self.specials)
                found[n] = self.learned(text.text, read, start, end, turns[n])
            except NotThere:
                continue
        if own is not None and own not in found:
            found = {}
        return self.view(read.ids, list(found.values())), list(found)

    def learned(self, text: str, read: Read, start: int, end: int, turn: Turn) -> Learned:
        """Return the tokens that are trained of a range of characters, and their weight.

        Raises NotThere as `tokens_at` does, or if the spans of the turn are not there.
        """
        tokens = self.tokens_at(text, read, start, end)
        if turn.spans is None:
            return Learned([tokens], turn.weight)
        offsets, parts = read.offsets, []
        for a, b in shown_spans(text, start, end, turn, self.specials):
            inside = [n for n in range(*tokens) if offsets[n][0] < b and offsets[n][1] > a]
            parts += [(inside[0], inside[-1] + 1)] if inside else []
        return Learned(parts, turn.weight)

    def tokens_at(self, text: str, read: Read, start: int, end: int) -> Range:
        """Return the token range of a range of characters.

        Raises NotThere if a token straddles one of its ends, or the tokens are of other words.
        """
        before, until = self.tokens(text[:start]), self.tokens(text[:end])
        if read.ids[: len(before)] != before:
            raise NotThere("a token straddles the beginning of an answer")
        if read.ids[: len(until)] != until:
            raise NotThere("a token straddles the end of an answer")
        # A second check, in another way: by the places that the tokenizer gives for its tokens.
        offsets = read.offsets[len(before) : len(until)]
        if not offsets or text[offsets[0][0] : offsets[-1][1]].strip() != text[start:end].strip():
            raise NotThere("the tokens of an answer are not those of its words")
        return len(before), len(until)

    def written(self, turn: Turn) -> Encoded | None:
        """Return the answer written after its prompt, or None; for templates that alter answers."""
        made = written(turn, self.specials)
        if made is None:
            return None
        text, start, end = made
        read = self.plain.tokenized(text)
        try:
            found = self.learned(text, read, start, end, turn)
        except NotThere:
            return None
        return self.view(read.ids, [found])

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
        read = self.plain.tokenized(text.text)
        try:
            start, end = find_answer(turn, text, order, order + 1, self.specials)
            self.learned(text.text, read, start, end, turn)
        except NotThere as error:
            raise wrong_tokens(str(error), self.plain.shown(example)) from error
        raise AssertionError("a turn that is there was not found")

    def view(self, ids: list[int], parts: list[Learned]) -> Encoded:
        weights = np.zeros(len(ids), np.float32)
        for part in parts:
            for start, end in part.tokens:
                weights[start:end] = part.weight
        return encoded(ids, weights)


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
