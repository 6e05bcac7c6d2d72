"""Renders a sample of rows as the model would read them, and counts their tokens.

`python -m services.trainer.worker.sample REQUEST.json` prints one JSON object, which the supervisor
answers as `RowsPreviewed`, or `failed` as `services.trainer.worker.example` does. It also says what
usually goes unseen: rows that would not be trained, an end of turn that is never trained, a doubled
beginning, the template's own words in the loss, what the template drops.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from services.model.encoded import Encoded
from services.model.template import Chat, TemplateRefuses
from services.trainer.worker.data.encoder import Encoder, Why
from services.trainer.worker.dropped import DROPPABLE, Droppable, has_thought
from services.trainer.worker.example import answer_file, token
from shared.child import limit_memory
from shared.errors import CannotTrain
from shared.formats.dataset import CanonicalRow
from shared.protocol.names import OnLong

ANY_LENGTH = 1 << 62
GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly
SAMPLE_MEMORY = 2 << 30  # beyond what the process has once its libraries are loaded
END_TOKENS = 200  # shown of each end of a long sequence
COMPARED = 8  # rows that are also rendered without what the template may drop


class SampleRequest(BaseModel):
    """A request to render rows, given as canonical lines.

    `count_seconds`: no further row is rendered after that time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_dir: Path
    chat_template: str | None
    clock: str
    rows: tuple[str, ...]
    shown: int
    max_length: int
    on_long: OnLong
    count_seconds: float


@dataclass
class Sample:
    """What was counted so far. A row is named by its place in the request, from 0."""

    chat: Chat
    max_length: int
    on_long: OnLong
    counted: int = 0
    fit: int = 0
    tokens: int = 0
    trained: int = 0
    too_long: int = 0
    lengths: list[int] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    chats: int = 0  # conversations that fit
    seen: Counter[str] = field(default_factory=Counter)  # kind -> rows
    compared: Counter[str] = field(default_factory=Counter)
    headers: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.chat, ANY_LENGTH)
        self.fitting = Encoder(self.chat, self.max_length, self.on_long)
        tokenizer = self.chat.tokenizer
        self.stops = set(tokenizer.convert_tokens_to_ids(self.chat.renders.stops))
        self.specials = {n for n, t in tokenizer.added_tokens_decoder.items() if t.special}

    def add(self, place: int, line: str) -> Encoded | Why | CannotTrain:
        """Count a row; return its tokens at any length, or why it has none."""
        self.counted += 1
        try:
            row = CanonicalRow.parse(line.encode())
            whole = self.encoder.encode(row)
        except CannotTrain as failure:
            self.refuse(place, Why(failure.message))
            return failure
        except (ValueError, KeyError, TypeError, TemplateRefuses) as error:
            whole = Why(str(error), bad=True)
        if isinstance(whole, Why):
            self.refuse(place, whole)
            return whole
        self.lengths.append(max(whole.lengths))
        self.too_long += self.lengths[-1] > self.max_length
        kept = self.fitting.fitted(whole)
        if isinstance(kept, Why):
            self.refuse(place, kept)
        else:
            self.fit += 1
            self.tokens += len(kept)
            self.trained += kept.labels
            self.seen["cut"] += len(kept) < len(whole)
            self.look_at(row, whole)
        return whole

    def refuse(self, place: int, why: Why) -> None:
        self.reasons[why.reason] += 1
        self.first.setdefault(why.reason, place)
        if why.bad:
            self.bad[why.reason] += 1

    def look_at(self, row: CanonicalRow, whole: Encoded) -> None:
        """Note what usually goes unseen in a row."""
        bos = self.chat.tokenizer.bos_token_id
        begins = np.cumsum([0, *whole.lengths[:-1]])
        doubled = (list(whole.ids[n : n + 2]) == [bos, bos] for n in begins)
        self.seen["double_bos"] += bos is not None and any(doubled)
        if row.text is not None:
            return
        self.chats += 1
        self.seen["stops"] += bool(self.stops.intersection(whole.ids[whole.trained].tolist()))
        runs = list(trained_runs(whole))
        self.ends |= {self.name(run[-1]) for run in runs}
        # A call or a thought has tokens of its own, which the model must learn to write.
        if not any(m.tool_calls or has_thought(m) for m in row.messages):
            inside = {self.name(n) for run in runs for n in run[:-1] if n in self.specials}
            self.headers |= inside
            self.seen["header"] += bool(inside)
        for kind, part in DROPPABLE.items():
            self.compare(kind, part, row, whole)

    def compare(self, kind: str, part: Droppable, row: CanonicalRow, whole: Encoded) -> None:
        """Note whether the row has the same tokens without a part of it."""
        other = part.without(row) if self.compared[kind] < COMPARED else None
        if other is None:
            return
        try:
            plain = self.encoder.encode(other)
        except (CannotTrain, TemplateRefuses):
            return
        if isinstance(plain, Encoded):
            self.compared[kind] += 1
            self.seen[kind] += np.array_equal(plain.ids, whole.ids)

    def name(self, number: int) -> str:
        return str(self.chat.tokenizer.convert_ids_to_tokens(int(number)))

    def unseen(self) -> Iterator[dict[str, Any]]:
        """Yield what usually goes unseen, where there is something."""
        if self.chats and self.stops and not self.seen["stops"]:
            stops, ends = " or ".join(self.chat.renders.stops), listed_names(self.ends)
            message = f"no answer ends with {stops}, where generation stops; they end with {ends}"
            yield notice("no_stop", self.chats, self.chats, message)
        header = f"the loss covers the template's own {listed_names(self.headers)}"
        said = {
            "double_bos": (self.fit, "the text begins with the token that begins a text twice"),
            "header": (self.chats, header),
            "cut": (self.fit, f"cut to {self.max_length} tokens, and the rest is not trained"),
            **{kind: (self.compared[kind], part.message) for kind, part in DROPPABLE.items()},
        }
        for kind, (of, message) in said.items():
            if self.seen[kind]:
                yield notice(kind, self.seen[kind], of, message)


def sample_answer(request: SampleRequest) -> dict[str, Any]:
    """Return the rows that are shown, and what was counted. Raises CannotTrain (base)."""
    begun = time.monotonic()
    chat = Chat(request.base_dir, request.clock, request.chat_template)
    sample = Sample(chat, request.max_length, request.on_long)
    shown = [shown_row(sample, n, request.rows[n]) for n in range(request.shown)]
    # If time is short, those that were counted are still from everywhere in the file.
    rest = sorted(range(request.shown, len(request.rows)), key=lambda n: n * GOLDEN % 1)
    for place in rest:
        if time.monotonic() - begun > request.count_seconds:
            break
        sample.add(place, request.rows[place])
    lengths = sorted(sample.lengths)
    return {
        "shown": shown,
        "counted": sample.counted,
        "fit": sample.fit,
        "tokens": sample.tokens,
        "trained": sample.trained,
        "length_50": percentile(lengths, 0.5),
        "length_95": percentile(lengths, 0.95),
        "length_max": percentile(lengths, 1.0),
        "too_long": sample.too_long,
        "unfit": [
            {"reason": reason[:500], "rows": rows, "first": sample.first[reason]}
            for reason, rows in sample.reasons.most_common(10)
        ],
        "bad": sample.bad.total(),
        "unseen": list(sample.unseen()),
    }


def shown_row(sample: Sample, place: int, line: str) -> dict[str, Any]:
    """Return a row with the tokens at both ends of its sequences."""
    found = sample.add(place, line)
    if isinstance(found, CannotTrain):
        failed = {"kind": found.kind, "message": found.message, "example": found.example}
        return {"sequences": [], "failed": failed}
    if isinstance(found, Why) and found.example is not None:
        failed = {"kind": "mask", "message": found.reason, "example": found.example}
        return {"sequences": [], "failed": failed}
    if isinstance(found, Why):
        shown = {"kind": "mask", "message": found.reason, "example": found.example}
        return {"sequences": [], "left_out": found.reason, "failed": found.example and shown}
    kept, starts = sample.fitting.fitted(found), np.cumsum([0, *found.lengths])
    parts = [found.part(a, b) for a, b in pairwise(starts)]
    why = kept.reason if isinstance(kept, Why) else None
    return {"sequences": [ends_of(sample.chat, part) for part in parts], "left_out": why}


def ends_of(chat: Chat, part: Encoded) -> dict[str, Any]:
    """Return the tokens at both ends of one sequence."""
    head = len(part) if len(part) <= 2 * END_TOKENS else END_TOKENS
    tail = len(part) - min(END_TOKENS, len(part) - head)
    pairs = list(zip(part.ids.tolist(), part.trained.tolist(), strict=True))
    return {
        "tokens": len(part),
        "trained": part.labels,
        "head": [token(chat.tokenizer, *pair) for pair in pairs[:head]],
        "tail": [token(chat.tokenizer, *pair) for pair in pairs[tail:]],
    }


def trained_runs(encoded: Encoded) -> Iterator[list[int]]:
    """Yield the ids of each unbroken stretch of trained tokens."""
    edges = np.flatnonzero(np.diff(encoded.trained, prepend=False, append=False).astype(np.int8))
    for start, end in edges.reshape(-1, 2):
        yield encoded.ids[start:end].tolist()


def percentile(lengths: list[int], share: float) -> int | None:
    """Return the smallest of sorted lengths that at least this share does not exceed, or None."""
    return lengths[max(0, math.ceil(share * len(lengths)) - 1)] if lengths else None


def notice(kind: str, rows: int, of: int, message: str) -> dict[str, Any]:
    return {"kind": kind, "rows": int(rows), "of": of, "message": message}


def listed_names(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} others" if len(shown) > 5 else "")


if __name__ == "__main__":
    # Nobody has looked at these rows before.
    limit_memory(SAMPLE_MEMORY, may_write=True)
    answer_file(lambda data: sample_answer(SampleRequest.model_validate_json(data)), sys.argv[1])
