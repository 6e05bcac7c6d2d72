"""Chat to tokens, and the mask of what is trained: the assistant's words and its end of turn.

Where the mask comes from: the text up to an answer (with the generation prompt) must be a prefix
of the whole text, in characters and in tokens; the answer is what follows. Templates that mark
`{% generation %}` are asked instead. Either way each answer is then compared with the message
it came from, so a template that does something else is refused before anything is trained.
"""

import hashlib
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from services.trainer.spec import Failure
from shared.probes import Message

TEMPLATE_BYTES = 4 << 30  # beyond what is in use: far more than any honest template needs


class TemplateRefuses(Exception):
    """The template raised an error for this conversation; the message is the template's."""


@dataclass(frozen=True)
class Encoded:
    """One conversation. `ids` int32 [n], `trained` bool [n]: True where a token is learned."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> int:
        """Tokens with a loss. The first token has none: nothing comes before it."""
        return int(self.trained[1:].sum())

    @property
    def answer(self) -> tuple[int, int]:
        """Token range [start, end) of the last answer with its end of turn."""
        end = int(np.flatnonzero(self.trained)[-1]) + 1
        gaps = np.flatnonzero(~self.trained[:end])
        return (int(gaps[-1]) + 1 if len(gaps) else 0), end


class Chat:
    """A tokenizer with its template and a clock that stands still."""

    def __init__(self, base_dir: Path, clock: str) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            str(base_dir), local_files_only=True, trust_remote_code=False
        )
        if not self.tokenizer.is_fast:
            raise Failure("base", f"{base_dir} has no tokenizer.json")
        if not isinstance(self.tokenizer.chat_template, str):
            raise Failure("base", f"{base_dir} has no chat template (chat_template.jinja)")
        self.template: str = self.tokenizer.chat_template
        self.tokenizer_sha256 = hashlib.sha256((base_dir / "tokenizer.json").read_bytes())
        self.marks_generation = "{% generation %}" in self.template.replace("{%-", "{%")
        self.specials = sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)
        self.now = datetime.fromisoformat(clock)

    @property
    def hashes(self) -> dict[str, str]:
        return {
            "tokenizer_sha256": self.tokenizer_sha256.hexdigest(),
            "template_sha256": hashlib.sha256(self.template.encode()).hexdigest(),
        }

    def freeze(self) -> None:
        """Some templates print today's date; tokens must not depend on the day.

        transformers turns a function given as an argument into a string, so the clock is set in
        the globals of the compiled template, which it keeps by the template's text.
        """
        if "strftime_now" in self.template:
            compiled = chat_template_utils._compile_jinja_template(self.template)
            compiled.globals["strftime_now"] = self.now.strftime

    def render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        """The text that the model sees. `prompt`: ends where the assistant begins to speak."""
        self.freeze()
        try:
            text: str = self.tokenizer.apply_chat_template(
                [m.model_dump() for m in messages],
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except MemoryError as error:
            raise Failure("base", "The base's chat template asks for too much memory.") from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise TemplateRefuses(str(error)) from error
        return text

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return self.tokens(self.render(messages, prompt=True))

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Tokens and mask, verified. Raises Failure (mask), or TemplateRefuses."""
        text = self.render(messages)
        batch = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = batch["input_ids"]
        if self.marks_generation:
            trained = self.generation_mask(messages, ids)
        else:
            trained = self.prefix_mask(messages, text, ids)
        encoded = Encoded(np.array(ids, np.int32), trained)
        self.verify(messages, text, encoded, batch["offset_mapping"])
        return encoded

    def prefix_mask(
        self, messages: Sequence[Message], text: str, ids: list[int]
    ) -> NDArray[np.bool_]:
        trained = np.zeros(len(ids), np.bool_)
        for turn, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.render(messages[:turn], prompt=True)
            until = self.render(messages[: turn + 1])
            if not until.startswith(before):
                raise wrong("the prompt for an answer is not the beginning of its text", before)
            after = before + until[len(before) :][: self.answer_length(until, before, message)]
            start, end = len(self.tokens(before)), len(self.tokens(after))
            if not text.startswith(after) or ids[:end] != self.tokens(after):
                raise wrong("an answer reads differently once the next turn follows", after)
            if ids[:start] != self.tokens(before):
                raise wrong("a token straddles the beginning of an answer", before)
            trained[start:end] = True
        return trained

    def answer_length(self, until: str, before: str, message: Message) -> int:
        """Characters of the answer with its end of turn, without the line break behind it."""
        piece, content = until[len(before) :], message.content.strip()
        at = piece.find(content)
        if at < 0 or piece[:at].strip():
            raise wrong(
                "the template changes an answer or puts words before it",
                mark(until, len(before), len(until)),
            )
        tail = piece[at + len(content) :]
        gap = len(tail) - len(tail.lstrip())
        for special in self.specials:
            if tail[gap:].startswith(special):
                return at + len(content) + gap + len(special)
        raise wrong("no end-of-turn token follows an answer", mark(until, len(before), len(until)))

    def generation_mask(self, messages: Sequence[Message], ids: list[int]) -> NDArray[np.bool_]:
        self.freeze()
        marked = self.tokenizer.apply_chat_template(
            [m.model_dump() for m in messages],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        if marked["input_ids"] != ids:
            raise wrong("the template's generation marks change the tokens", self.render(messages))
        return np.array(marked["assistant_masks"], np.bool_)

    def verify(
        self,
        messages: Sequence[Message],
        text: str,
        encoded: Encoded,
        offsets: list[tuple[int, int]],
    ) -> None:
        """Each answer is trained, whole, with one end-of-turn token, and nothing else is."""
        answers = [m.content.strip() for m in messages if m.role == "assistant"]
        edges = np.flatnonzero(np.diff(np.r_[False, encoded.trained, False].astype(np.int8)))
        runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
        if len(runs) != len(answers):
            raise wrong(f"{len(answers)} answers, but {len(runs)} are trained", text)
        for (start, end), answer in zip(runs, answers, strict=True):
            first, last = offsets[start][0], offsets[end - 1][1]
            piece = text[first:last].strip()
            tail = piece[len(answer) :].strip()
            if not piece.startswith(answer) or tail not in self.specials:
                raise wrong("what is trained is not the answer", mark(text, first, last))


@contextmanager
def bounded_memory(more: int) -> Iterator[None]:
    """Let this process map at most `TEMPLATE_BYTES + more` bytes beyond what it has.

    Jinja's sandbox keeps a foreign template from files, not from memory: one multiplied string
    takes gigabytes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + TEMPLATE_BYTES + more
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def mark(text: str, start: int, end: int) -> str:
    """The text with its trained part in ⟦ ⟧."""
    return f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"


def wrong(reason: str, example: str) -> Failure:
    return Failure(
        "mask", f"The loss mask would be wrong: {reason}.", suspect=True, example=example[:4000]
    )
