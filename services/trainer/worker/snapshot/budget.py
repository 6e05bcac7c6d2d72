"""Decides when a snapshot is worth its time, and how large it may be.

Snapshots come at job steps 0, 1, 2, 4, 8, …, and later at regular distances, as their cost allows.
In total they may cost a fraction of the training time plus an allowance. The first and the last are
always taken, each with as many probes as fit into one more allowance.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from services.trainer.protocol import SnapshotSettings

Size = Literal["full", "small"]

SMALL_MEASURED, SMALL_ANSWERED = 16, 8
FULL_SHARE = 4  # a full snapshot must fit this often into the time that is left


@dataclass(frozen=True)
class Decision:
    """A decision about one snapshot. `size` None: it is skipped.

    Seconds: spent so far on snapshots, allowed for them so far, and expected for one of this size
    (None: not known yet). `limit_seconds`: what this one may take at most, None for no limit.
    """

    size: Size | None
    why: str
    spent_seconds: float
    allowed_seconds: float
    expected_seconds: float | None = None
    limit_seconds: float | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The decision as snapshots, metrics and events store it."""
        fields = asdict(self)
        fields["size"] = self.size or "skipped"
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in fields.items()}


class Governor:
    """Keeps account of what snapshots have cost, and decides about the next one."""

    def __init__(self, settings: SnapshotSettings, probes: int, began: int) -> None:
        self.settings, self.probes = settings, probes
        self.spent_seconds = 0.0
        self.cost_seconds: dict[Size, float] = {}  # moving average of what one took
        self.taken_at: int | None = None  # job step of the last one
        self.next_step = power_of_two_from(began)
        self.skipped_for: int | None = None  # the last step that was reported as skipped

    def decide(
        self, job_step: int, train_seconds: float, *, last: bool = False, asked: bool = False
    ) -> Decision | None:
        """Return what to do at this step; None if nothing is due, or its skip was reported."""
        allowed = self.settings.fraction * train_seconds + self.settings.allowance_seconds
        account = {"spent_seconds": self.spent_seconds, "allowed_seconds": allowed}
        if not self.probes:
            why = "this job has no example that can be measured"
            return Decision(None, why, **account) if asked else None
        full, small = self.expected_seconds("full"), self.expected_seconds("small")
        if last or asked:
            why = "the last of the job" if last else "asked for"
            limit = None if asked else self.settings.allowance_seconds
            return Decision("full", why, **account, expected_seconds=full, limit_seconds=limit)
        if self.taken_at == job_step:
            return None
        if job_step == 0:
            limit = self.settings.allowance_seconds
            return Decision("full", "the first of the job", **account, limit_seconds=limit)
        if job_step < self.next_step:
            return None
        left = allowed - self.spent_seconds
        # A full one may take only a part of what is left, or later steps would get none.
        if FULL_SHARE * (full or 0.0) <= left:
            why = f"a {FULL_SHARE}th of the time left is enough for all"
            limit = left if full is None else None  # nobody knows yet what it costs
            return Decision("full", why, **account, expected_seconds=full, limit_seconds=limit)
        if (small or 0.0) <= left:
            why = "time is short: a small one"
            return Decision("small", why, **account, expected_seconds=small)
        if self.skipped_for == self.next_step:
            return None
        self.skipped_for = self.next_step
        return Decision(None, "no time is left for one", **account, expected_seconds=small)

    def expected_seconds(self, size: Size) -> float | None:
        """Return what a snapshot of this size is expected to take; None if nothing is known yet."""
        if size == "small" and size not in self.cost_seconds and "full" in self.cost_seconds:
            return self.cost_seconds["full"] * min(1.0, SMALL_MEASURED / self.probes)
        return self.cost_seconds.get(size)

    def give_up(self, decision: Decision, job_step: int) -> Decision:
        """Skip a snapshot for which memory ran out, and plan the next one twice as far.

        Training continues without it. Returns the decision as it is reported then.
        """
        self.taken_at, self.next_step = job_step, job_step + max(job_step, 1)
        return replace(decision, size=None, why="memory ran out, and it cannot take less")

    def account(
        self,
        size: Size,
        job_step: int,
        seconds: float,
        train_seconds_per_step: float,
        *,
        asked: bool = False,
    ) -> None:
        """Note the cost of a snapshot, and set the step of the next one.

        That is twice as far, or as near as the cost allows once that is nearer. A snapshot that was
        asked for takes nothing from the budget of the others.
        """
        self.spent_seconds += 0.0 if asked else seconds
        known = self.cost_seconds.get(size, seconds)
        self.cost_seconds[size] = 0.5 * known + 0.5 * seconds
        self.taken_at = job_step
        gap = max(job_step, 1)
        cost = self.expected_seconds("small") or 0.0
        if train_seconds_per_step > 0 and self.settings.fraction > 0 and cost > 0:
            constant = cost / (self.settings.fraction * train_seconds_per_step)
            gap = min(gap, max(1, round(constant)))
        self.next_step = job_step + gap


def power_of_two_from(step: int) -> int:
    """Return the smallest power of two that is not below `step`."""
    return 1 << max(step - 1, 0).bit_length()
