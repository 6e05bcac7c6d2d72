"""The histories of many examples at once, in columns: their states and speeds.

`lifelines` and `speed` say what the words mean and do the same for a single history; here it is
done for all in a few passes over arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.evolution.cells import CELL, EARLIER, NONE, Cells, right
from services.evolution.lifelines import (
    CHANGE_WINDOW,
    CHANGES,
    CLEAR_FALL,
    ENOUGH_POINTS,
    STATES,
)
from shared.protocol.names import SPLITS

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Fractions = NDArray[np.float64]


@dataclass(frozen=True)
class StepMeasured:
    """What holds for all cells of a snapshot. `job` is any number of its job, `tokens` may be -1.

    Snapshots are given in the order of (global_step, fence).
    """

    global_step: int
    job: int
    is_final: bool
    tokens: int


class Histories:
    """Histories, one for each key, each in the order of steps and with one measurement a step.

    `starts[i]` and `ends[i]` (inclusive) bound the i-th history in the columns; keys rise.
    `snapshot` is the index of the snapshot of each measurement, `place` its index in that
    snapshot's cells.
    """

    def __init__(
        self, taken: Sequence[StepMeasured], cells: Sequence[Cells], *, by_split: bool
    ) -> None:
        """Histories of what these snapshots measured: by probe, or by split and probe.

        A snapshot measures a probe once, and at least one measures something.
        """
        self.taken, self._cells = taken, cells
        keys = [part["probe"] * np.int64(len(SPLITS)) for part in cells]
        if by_split:
            keys = [key + part["split"] for key, part in zip(keys, cells, strict=True)]
        # As a counting sort: each key has as many places as measurements, filled in their order.
        count = np.zeros(max(int(key.max(initial=0)) for key in keys) + 1, np.int64)
        for key in keys:
            count[key] += 1
        free = np.cumsum(count) - count
        total = int(count.sum())
        self.snapshot, self.place = np.empty(total, np.int32), np.empty(total, np.int32)
        self.loss, self.right = np.empty(total), np.empty(total, bool)
        self.asked, self.own = np.empty(total, bool), np.empty(total, bool)
        for number, (key, part) in enumerate(zip(keys, cells, strict=True)):
            at = free[key]
            free[key] += 1
            self.snapshot[at], self.place[at] = number, np.arange(len(part))
            self.loss[at], self.right[at] = part["loss"], right(part)
            self.asked[at] = part["exact_match"] != NONE
            self.own[at] = part["split"] != EARLIER
        self.step = np.array([one.global_step for one in taken], np.int64)[self.snapshot]
        self.final: Flags = np.array([one.is_final for one in taken], bool)[self.snapshot]
        self._bound(count[count > 0])
        if len({one.global_step for one in taken}) < len(taken):
            self._keep_one_a_step()

    def _bound(self, counts: Numbers) -> None:
        self.ends: Numbers = np.cumsum(counts) - 1
        self.starts: Numbers = self.ends - counts + 1

    def _keep_one_a_step(self) -> None:
        """Keep, of several at one step, the last with an answer, or else the last."""
        history = self.each(np.arange(len(self)))
        changes = (history[1:] != history[:-1]) | (self.step[1:] != self.step[:-1])
        first = np.flatnonzero(np.r_[True, changes])
        last = np.r_[first[1:], len(history)] - 1
        best = np.maximum.reduceat(np.where(self.asked, np.arange(len(history)), NONE), first)
        final = np.logical_or.reduceat(self.final, first)
        chosen = np.where(best == NONE, last, best)
        for name in ("snapshot", "place", "loss", "right", "asked", "own", "step"):
            setattr(self, name, getattr(self, name)[chosen])
        self.final = final
        self._bound(np.bincount(history[chosen]))

    def __len__(self) -> int:
        return len(self.starts)

    def values(self, name: str, at: Numbers) -> NDArray[Any]:
        """Return a field of CELL of the measurements at these indices."""
        snapshot, place = self.snapshot[at], self.place[at]
        found = np.empty(len(at), CELL[name])
        for number in np.unique(snapshot):
            mine = snapshot == number
            found[mine] = self._cells[number][name][place[mine]]
        return found

    @property
    def probes(self) -> Numbers:
        """The number of the probe of each history."""
        return self.values("probe", self.starts)

    def each(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the values of histories for each of their measurements."""
        return np.repeat(values, self.ends - self.starts + 1)

    def last_where(self, condition: Flags) -> Numbers:
        """Return the index of the last measurement of each history where it holds, or -1."""
        at = np.where(condition, np.arange(len(condition)), NONE)
        found: Numbers = np.maximum.reduceat(at, self.starts)
        return found

    def first_where(self, condition: Flags) -> Numbers:
        """Return the index of the first measurement of each history where it holds, or -1."""
        none = len(condition)
        found = np.minimum.reduceat(np.where(condition, np.arange(none), none), self.starts)
        return np.where(found == none, NONE, found)

    # ---- states ----------------------------------------------------------------------------------

    def verdicts(self) -> tuple[Numbers, Numbers]:
        """Return each history's state, as index in STATES, and where it was told, or -1.

        That is the index of the measurement whose step and job `lifelines.Verdict` names.
        """
        count = self.ends - self.starts + 1
        learned_at = self.last_where(self._learned())
        is_learned = learned_at == self.ends
        rules = (
            ("new", count == 1),
            ("unstable", self._changes() >= CHANGES),
            ("learned", is_learned),
            ("forgotten", learned_at != NONE),
            ("learning", self._fallen()),
            ("not learned", self._over()),
            ("struggling", count >= ENOUGH_POINTS),
        )
        states = [STATES.index(name) for name, _ in rules]
        state = np.select([rule for _, rule in rules], states, STATES.index("new"))
        run = np.maximum(self.last_where(~self.right) + 1, self.starts)
        at = np.where(is_learned, run, learned_at + 1)
        told = (state == STATES.index("learned")) | (state == STATES.index("forgotten"))
        return state, np.where(told, at, NONE)

    def _before(self, values: Flags) -> Flags:
        """Return the value of the measurement before each; False for the first of a history."""
        before: Flags = np.r_[False, values[:-1]]
        before[self.starts] = False
        return before

    def _learned(self) -> Flags:
        found: Flags = self.right & (self.final | self._before(self.right))
        return found

    def _changes(self) -> Numbers:
        flips = np.r_[False, self.right[1:] != self.right[:-1]]
        flips[self.starts] = False
        total = np.r_[0, np.cumsum(flips)]
        first = np.maximum(self.starts, self.ends - CHANGE_WINDOW + 1)
        found: Numbers = total[self.ends + 1] - total[first + 1]
        return found

    def _fallen(self) -> Flags:
        loss = self.loss
        first = self.first_where(~np.isnan(loss))
        start, end = np.where(first == NONE, np.nan, loss[first]), loss[self.ends]
        found: Flags = (start > 0) & (end <= (1 - CLEAR_FALL) * start)
        return found

    def _over(self) -> Flags:
        own = self.last_where(self.own)
        found: Flags = (own == NONE) | self.final[own]
        return found

    # ---- speed -----------------------------------------------------------------------------------

    def speeds(self) -> tuple[Fractions, Fractions, Fractions]:
        """Return steps and tokens to learned, and the fall of the loss for 1000 tokens.

        NaN is what is not known, as None in `speed.Speed`.
        """
        job = np.array([one.job for one in self.taken])[self.snapshot]
        counted = np.array([one.tokens for one in self.taken], dtype=float)[self.snapshot]
        counted[counted == NONE] = np.nan
        last = self.last_where(self.own)
        mine = self.own & (job == self.each(job[last]))
        first = self.first_where(mine)
        loss = self.loss
        tokens = counted[last] - counted[first]
        with np.errstate(divide="ignore", invalid="ignore"):
            fall = np.where(tokens == 0, np.nan, 1000 * (loss[first] - loss[last]) / tokens)
        state, at = self.verdicts()
        known = (state == STATES.index("learned")) & mine[at]
        steps = np.where(known, (self.step[at] - self.step[first]).astype(float), np.nan)
        to_learned = np.where(known, counted[at] - counted[first], np.nan)
        nothing = last == NONE
        for values in (steps, to_learned, fall):
            values[nothing] = np.nan
        return steps, to_learned, fall
