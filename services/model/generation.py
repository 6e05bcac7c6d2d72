"""Generates the model's own answers, greedily, in batches of about equal length.

How an answer begins is known from measuring (`Measured.draft`): one that is entirely as expected
needs no generation, and any other continues after its first token that differs. The length of what
is generated is limited.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from services.model.encoded import Encoded
from services.model.network import Network
from services.model.teacher_forcing import LEAST_SHARED, Measured, common

BATCH = 16  # a CPU is as busy with more
GPU_BATCH = 64
MOST_TOKENS = 96  # generated for one answer
SLACK_TOKENS = 8  # beyond the length of the expected answer


@dataclass
class Said:
    """An answer of the model as tokens, without its end of turn.

    `losses`: in nats, of each token, the end of turn included. `is_cut`: it reached the limit.
    """

    tokens: list[int]
    losses: list[float] = field(default_factory=list)
    is_cut: bool = False

    @property
    def confidence(self) -> float | None:
        """The geometric mean of the probabilities of its tokens; None without any."""
        return math.exp(-sum(self.losses) / len(self.losses)) if self.losses else None


class Answering:
    """Lets the network answer.

    `stops`: tokens that end an answer. `most_tokens`: limit for all answers generated at once, with
    their prompts and padding; a longer one is generated alone.
    """

    def __init__(self, network: Network, stops: Sequence[int], most_tokens: int) -> None:
        self.network, self.stops, self.most_tokens = network, list(stops), most_tokens
        # A sliding window would count the padding in between, and a state would pass through it.
        config = network.base.config.get_text_config()
        self.shares = network.packs and not getattr(config, "sliding_window", None)

    def answer(
        self,
        asked: Mapping[str, tuple[Encoded, Measured]],
        leave: Callable[[], bool] = lambda: False,
    ) -> dict[str, Said] | None:
        """Return greedy answers by name, or None if `leave` says so."""
        found = {name: self.begun(measured) for name, (_, measured) in asked.items()}
        rooms = {name: self.room(found[name], measured) for name, (_, measured) in asked.items()}
        open_ = sorted((n for n in asked if rooms[n] > 0), key=lambda n: (rooms[n], n))
        # As trained: up to the answer, with an empty thought where the template puts one.
        prompts = {n: [*prompt_tokens(asked[n][0]), *found[n].tokens] for n in open_}
        most = GPU_BATCH if self.network.device.type == "cuda" else BATCH
        sizes = [(len(prompts[n]), rooms[n]) for n in open_]
        with self.network.generating():
            for here in batches(sizes, most, self.most_tokens):
                if leave():
                    return None
                group = open_[here]
                limits = [rooms[n] for n in group]
                said = self.generate([prompts[n] for n in group], limits)
                for name, more in zip(group, said, strict=True):
                    found[name].tokens += more.tokens
                    found[name].losses += more.losses
                    found[name].is_cut = more.is_cut
        return found

    def begun(self, measured: Measured) -> Said:
        """Return the part of the answer that is known from measuring.

        With its end of turn, that is the whole answer.
        """
        tokens = measured.draft
        ended = tokens[-1] in self.stops
        return Said(tokens[:-1] if ended else list(tokens), list(measured.draft_losses))

    def room(self, begun: Said, measured: Measured) -> int:
        """Return how many tokens the answer may still get; 0 if it has ended."""
        if len(begun.losses) > len(begun.tokens) or measured.first_mismatch is None:
            return 0
        return min(MOST_TOKENS, measured.tokens + SLACK_TOKENS - len(begun.tokens))

    def generate(self, prompts: list[list[int]], limits: list[int]) -> list[Said]:
        """Generate the answers to these prompts, each up to its own limit in tokens.

        The beginning that all prompts share goes through the model once; the padding follows it.
        """
        shared = shared_tokens(prompts) if self.shares else 0
        width = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), width), self.stops[0])
        mask = torch.ones_like(ids)
        for n, prompt in enumerate(prompts):
            gap = width - len(prompt)
            ids[n, :shared] = torch.tensor(prompt[:shared])
            ids[n, shared + gap :] = torch.tensor(prompt[shared:])
            mask[n, shared : shared + gap] = 0
        device = self.network.device
        ids, mask = ids.to(device), mask.to(device)
        told = TokenLosses()
        out = self.network.model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=self.prefix(ids[:1, :shared], len(prompts)) if shared else None,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max(limits),
            eos_token_id=self.stops,
            pad_token_id=self.stops[0],
            logits_processor=LogitsProcessorList([told]),
        )
        losses = torch.stack(told.losses, 1).tolist()
        rows = zip(out[:, width:].tolist(), losses, limits, strict=True)
        # Each is cut at its own limit, so that an answer does not depend on its neighbours'.
        return [self.until_stop(tokens[:limit], own[:limit]) for tokens, own, limit in rows]

    def prefix(self, ids: torch.Tensor, rows: int) -> DynamicCache:
        """Return the cache with the keys and values of [1, n] tokens, repeated for `rows` rows."""
        cache = DynamicCache(config=self.network.base.config)
        self.network.base(input_ids=ids, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(rows)
        return cache

    def until_stop(self, tokens: list[int], losses: list[float]) -> Said:
        """Return the answer up to its end of turn, or all tokens, marked as cut, without one."""
        end = next((i for i, t in enumerate(tokens) if t in self.stops), None)
        if end is None:
            return Said(tokens, losses, is_cut=True)
        return Said(tokens[:end], losses[: end + 1])


class TokenLosses(LogitsProcessor):
    """Keeps the loss of the most likely token of each step, and changes nothing."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.losses.append(-torch.log_softmax(scores.float(), -1).amax(-1).cpu())
        return scores


def batches(sizes: Sequence[tuple[int, int]], most: int, most_tokens: int) -> Iterator[slice]:
    """Cut a list of (tokens of a prompt, tokens of its answer at most) into batches.

    A batch has at most `most` items, and padded to its longest prompt and answer at most
    `most_tokens` tokens; an item that is larger stands alone.
    """
    start, width, room = 0, 0, 0
    for at, (prompt_tokens, limit) in enumerate(sizes):
        width, room = max(width, prompt_tokens), max(room, limit)
        count = at - start + 1
        if count > 1 and (count > most or count * (width + room) > most_tokens):
            yield slice(start, at)
            start, width, room = at, prompt_tokens, limit
    if sizes:
        yield slice(start, len(sizes))


def prompt_tokens(encoded: Encoded) -> list[int]:
    """Return the tokens before the last answer."""
    ids: list[int] = encoded.last.ids[: encoded.answer[0]].tolist()
    return ids


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts share at their beginning; 0 if too few to be worth it.

    The last token of a prompt is never shared.
    """
    arrays = [np.array(p[:-1], np.int32) for p in prompts]
    shared = min(common(arrays[0], other) for other in arrays)
    return shared if len(prompts) > 1 and shared >= LEAST_SHARED else 0
