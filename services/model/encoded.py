"""A row as tokens: which of them are learned, and how much each counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    """One row as tokens. `ids` int32 [n], `trained` bool [n]: True where a token is learned.

    `parts`: the lengths of its sequences, laid end to end, where it needs more than one: some
    templates show an answer differently once the conversation continues, and it is trained as it is
    first shown.
    `weights`: float32 [n], the factor of each token's loss; None where every factor is 1.
    """

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    parts: tuple[int, ...] = ()
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.parts or (len(self.ids),)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """The tokens with a loss, bool [n]: not the first of a sequence, as nothing predicts it."""
        found = self.trained.copy()
        found[np.cumsum([0, *self.lengths[:-1]])] = False
        return found

    @property
    def labels(self) -> int:
        return int(self.labelled.sum())

    @property
    def label_weight(self) -> float:
        """The sum of the factors of its labels: their count, where every factor is 1."""
        if self.weights is None:
            return self.labels
        return float(self.weights[self.labelled].sum(dtype=np.float64))

    def part(self, start: int, end: int) -> "Encoded":
        """Return the tokens [start, end) as one sequence."""
        weights = None if self.weights is None else self.weights[start:end]
        return Encoded(self.ids[start:end], self.trained[start:end], weights=weights)

    def cut(self, length: int) -> "Encoded | None":
        """Return the row with each sequence cut to `length` tokens; None if no label is left."""
        kept, start = [], 0
        for size in self.lengths:
            part = self.part(start, start + min(size, length))
            kept += [part] if part.labels else []
            start += size
        return joined(kept) if kept else None

    @property
    def last(self) -> "Encoded":
        """The last sequence alone, which contains the conversation to its end."""
        return self.part(len(self.ids) - self.lengths[-1], len(self.ids))

    @property
    def answer(self) -> tuple[int, int]:
        """The token range [start, end) in `last` of the last answer with its end of turn.

        For plain text, it is everything but the first token.
        """
        trained = self.last.trained
        end = int(np.flatnonzero(trained)[-1]) + 1
        gaps = np.flatnonzero(~trained[:end])
        return (int(gaps[-1]) + 1 if len(gaps) else 1), end


def joined(views: list[Encoded]) -> Encoded:
    """Return these views as one row of several sequences."""
    if len(views) == 1:
        return views[0]
    return Encoded(
        np.concatenate([v.ids for v in views]) if views else np.zeros(0, np.int32),
        np.concatenate([v.trained for v in views]) if views else np.zeros(0, np.bool_),
        tuple(len(v) for v in views),
        all_weights(views),
    )


def all_weights(views: Sequence[Encoded]) -> NDArray[np.float32] | None:
    """Return the factors of all tokens of these views, or None where every factor is 1."""
    if all(view.weights is None for view in views):
        return None
    all_ones = (v.trained.astype(np.float32) if v.weights is None else v.weights for v in views)
    return np.concatenate(list(all_ones))


def encoded(ids: Sequence[int], weights: NDArray[np.float32]) -> Encoded:
    """Return tokens as one sequence. `weights`: float32 [n], 0 where a token is not learned."""
    trained = weights > 0
    plain = bool((weights[trained] == 1).all())
    return Encoded(np.array(ids, np.int32), trained, weights=None if plain else weights)
