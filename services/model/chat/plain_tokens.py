"""Special tokens that a row has in its words, and that are trained as text: `<filename>`, `<s>`.

A tokenizer would read them as the special token, and the template may itself write the same one
elsewhere (`<s>` begins a text of Llama 2, and strikes words out in HTML). So those of the words are
disguised before the template sees them, each as private characters, as many as the token has. A
second tokenizer reads the rendered text: there they are plain text again, and those of the template
have the disguise.
"""

import functools
import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from shared.formats.dataset import ChatTurn
from shared.formats.turn_tokens import STRIKE, strikes_out

# Planes 15 and 16 are for private use, and no text that is meant to be read has them.
IN_WORDS, IN_TEMPLATE = 0x100000, 0xF0000
MOST_DISGUISED = 0xFFF0
PRIVATE_USE = re.compile("[\U000f0000-\U0010ffff]")


class Read(NamedTuple):
    """A text as tokens. `offsets`: the characters [start, end) of each."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class PlainTokens:
    """Disguises the special `tokens` of a tokenizer in the words of a conversation."""

    def __init__(self, tokenizer: Any, tokens: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self.tokens = sorted(tokens, key=lambda t: (-len(t), t))[:MOST_DISGUISED]
        self._number = {token: n for n, token in enumerate(self.tokens)}
        self._any = any_of(self.tokens)
        self._hidden = any_of([self._disguise(token, IN_WORDS) for token in self.tokens])

    def _disguise(self, token: str, start: int) -> str:
        return chr(start + self._number[token]) * len(token)

    def disguised(
        self, messages: Sequence[ChatTurn], tools: Sequence[dict[str, Any]] | None
    ) -> tuple[Sequence[ChatTurn], Sequence[dict[str, Any]] | None]:
        """Return messages and tools with their special tokens disguised; mostly they have none."""
        if not self.tokens:
            return messages, tools
        words = json.dumps([[m.model_dump() for m in messages], tools], ensure_ascii=False)
        if self._any.search(words) is None or PRIVATE_USE.search(words) is not None:
            return messages, tools
        hidden = [replaced(m.model_dump(), self._hide) for m in messages]
        found = [ChatTurn.model_validate(m) for m in hidden]
        return found, replaced(tools, self._hide)

    def _hide(self, words: str) -> str:
        kept = () if strikes_out(words) else STRIKE

        def hide(match: re.Match[str]) -> str:
            token = match[0]
            return token if token in kept else self._disguise(token, IN_WORDS)

        return self._any.sub(hide, words)

    def shown(self, text: str) -> str:
        """Return a text with its disguised tokens as they were written."""
        return self._hidden.sub(lambda m: self.tokens[ord(m[0][0]) - IN_WORDS], text)

    def tokenized(self, text: str) -> Read:
        """Return the tokens of a rendered text."""
        if PRIVATE_USE.search(text) is None or self._hidden.search(text) is None:
            found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return Read(found["input_ids"], found["offset_mapping"])
        text = self._any.sub(lambda m: self._disguise(m[0], IN_TEMPLATE), text)
        encoding = self._second.encode(self.shown(text), add_special_tokens=False)
        return Read(encoding.ids, encoding.offsets)

    @functools.cached_property
    def _second(self) -> Tokenizer:
        """The same tokenizer, in which these special tokens have other names."""
        fields = json.loads(self._tokenizer.backend_tokenizer.to_str())
        names = {token: self._disguise(token, IN_TEMPLATE) for token in self.tokens}
        for added in fields["added_tokens"]:
            added["content"] = names.get(added["content"], added["content"])
        model = fields["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(t, t): n for t, n in model["vocab"].items()}
        else:  # Unigram: pieces with their scores
            model["vocab"] = [[names.get(t, t), score] for t, score in model["vocab"]]
        if "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if joined_pair(pair) not in names]
        second = Tokenizer.from_str(json.dumps(fields))
        second.no_truncation()
        second.no_padding()
        return second


def joined_pair(pair: str | Sequence[str]) -> str:
    """Return what a merge of byte-pair encoding makes; older files write it with a space."""
    return "".join(pair.split(" ")) if isinstance(pair, str) else "".join(pair)


def any_of(words: Collection[str]) -> re.Pattern[str]:
    """Return the pattern of the longest of these words; without words, one that is nowhere.

    What words have in common is written once: some tokenizers have six thousand special tokens, and
    to try each of them at every `<` of a page of HTML takes a hundred times as long.
    """
    return re.compile(branches(words) if words else r"(?!)")


def branches(words: Collection[str]) -> str:
    """Return the source of a pattern that matches the longest of these words."""
    rests: dict[str, list[str]] = {}
    for word in filter(None, words):
        rests.setdefault(word[0], []).append(word[1:])
    parts = "|".join(re.escape(first) + branches(rest) for first, rest in rests.items())
    return f"(?:{parts})" + ("?" if "" in words else "") if parts else ""


def replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value in which each text is changed; the keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: replaced(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(part, change) for part in value]
    return value
