"""The speed at which something was learned.

It is counted within one job, from the first look at the example to the first of the right answers
that made it learned: in steps, and in tokens that were trained on. The other measure is how much
the loss fell for each 1000 tokens, from the first look to the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.evolution.lifelines import Point, judge


@dataclass(frozen=True)
class Speed:
    """The speed at which an example was learned; None where it was not, or is not known."""

    steps_to_learned: float | None = None
    tokens_to_learned: float | None = None
    loss_fall_per_1000_tokens: float | None = None


def speed(points: Sequence[Point]) -> Speed:
    """Return the speed of a life line in the job that last watched it as one of its own.

    The life line is given as `line` returns it.
    """
    own = [point for point in points if point.split != "earlier"]
    mine = [point for point in own if point.job == own[-1].job]
    if not mine:
        return Speed()
    first, last = mine[0], mine[-1]
    fall = None
    tokens = tokens_between(first, last)
    if tokens and first.loss is not None and last.loss is not None:
        fall = 1000 * (first.loss - last.loss) / tokens
    verdict = judge(points)
    learned = next((p for p in mine if p.global_step == verdict.step), None)
    if verdict.state != "learned" or learned is None:
        return Speed(loss_fall_per_1000_tokens=fall)
    return Speed(learned.global_step - first.global_step, tokens_between(first, learned), fall)


def tokens_between(first: Point, last: Point) -> int | None:
    if first.job_tokens is None or last.job_tokens is None:
        return None
    return last.job_tokens - first.job_tokens
