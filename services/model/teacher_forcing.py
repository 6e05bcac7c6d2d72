"""Measures the model on given answers: loss, probabilities and the most likely tokens.

Probes are packed end to end; a beginning that all of a pack share, such as a system prompt, is
stored and computed once, and each of them sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from services.model.attention import Batch, pack
from services.model.encoded import Encoded
from services.model.network import Network

LEAST_SHARED = 4  # tokens: sharing fewer gains nothing


@dataclass(frozen=True)
class Measured:
    """The measurement of one probe with its answer given. `losses`: float32 [tokens], nats.

    `draft`: how the model's own answer would begin: the expected tokens as far as they are the most
    likely ones, then the token that it would say instead. `draft_losses`: the losses of these.
    """

    losses: NDArray[np.float32]
    right: NDArray[np.bool_]
    draft: list[int]
    draft_losses: list[float]

    @property
    def tokens(self) -> int:
        return len(self.losses)

    @property
    def loss(self) -> float:
        return float(self.losses.astype(np.float64).mean())

    @property
    def token_accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def first_mismatch(self) -> int | None:
        return None if self.right.all() else int(np.argmin(self.right))


def measure_answers(
    network: Network, examples: Sequence[Encoded], pack_tokens: int
) -> list[Measured]:
    """Measure each example's last answer; return the results in the order given."""
    answers = [last_answer(e) for e in examples]
    results: dict[int, Measured] = {}
    with network.measuring():
        for group, shared in packs(answers, pack_tokens if network.packs else 0):
            batch = pack_behind([answers[n] for n in group], shared, network.device)
            losses, best, best_losses = (t.cpu() for t in network.predict(batch))
            targets = batch.targets.cpu()
            parts = (torch.split(t, batch.labels) for t in (losses, targets, best, best_losses))
            for n, *own in zip(group, *parts, strict=True):
                results[n] = measured_answer(*(t.numpy() for t in own))
    return [results[n] for n in range(len(examples))]


def measured_answer(
    losses: NDArray[np.float32],
    targets: NDArray[np.int64],
    best: NDArray[np.int64],
    best_losses: NDArray[np.float32],
) -> Measured:
    """Return the measurement of one answer from the predictions at its tokens."""
    right = best == targets
    said = len(right) if right.all() else int(np.argmin(right)) + 1
    return Measured(losses, right, best[:said].tolist(), best_losses[:said].tolist())


def last_answer(encoded: Encoded) -> Encoded:
    """Return the conversation up to its last answer, with labels on that answer only."""
    start, end = encoded.answer
    asked = np.zeros(end, np.bool_)
    asked[start:end] = True
    return Encoded(encoded.last.ids[:end], asked)


def packs(examples: Sequence[Encoded], most: int) -> list[tuple[list[int], int]]:
    """Return (indices, number of tokens shared at the beginning) of each pack.

    A pack has at most `most` tokens; a longer example stands alone. Examples are sorted by their
    tokens, so that those with equal beginnings come together.
    """
    found: list[tuple[list[int], int]] = []
    total = 0
    for n in sorted(range(len(examples)), key=lambda n: examples[n].ids.tolist()):
        new = examples[n]
        if found:
            group, shared = found[-1]
            shared = min(shared, common(examples[group[0]].ids, new.ids), shareable_tokens(new))
            shared = shared if shared >= LEAST_SHARED else 0
            if total + len(new) - len(group) * shared <= most:
                found[-1] = [*group, n], shared
                total += len(new)
                continue
        found.append(([n], shareable_tokens(new)))
        total = len(new)
    return [(group, shared if len(group) > 1 else 0) for group, shared in found]


def shareable_tokens(example: Encoded) -> int:
    """Return how many tokens may be shared: all before the one that predicts the answer's first."""
    return max(0, int(np.argmax(example.trained)) - 1)


def common(first: NDArray[np.int32], second: NDArray[np.int32]) -> int:
    """Return the length of the common beginning."""
    size = min(len(first), len(second))
    same = first[:size] == second[:size]
    return size if same.all() else int(np.argmin(same))


def pack_behind(examples: Sequence[Encoded], shared: int, device: torch.device) -> Batch:
    """Return a batch as `pack` does, but with the `shared` first tokens of all examples only once.

    They form the first sequence; the rest of each example follows.
    """
    if not shared:
        return pack(examples, device)
    prefix = Encoded(examples[0].ids[:shared], np.zeros(shared, np.bool_))
    rests = [Encoded(e.ids[shared:], e.trained[shared:]) for e in examples]
    batch = pack([prefix, *rests], device)
    positions = batch.positions.clone()
    positions[:, shared:] += shared
    return replace(batch, positions=positions, labels=batch.labels[1:], shared=shared)
