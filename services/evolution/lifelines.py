"""Life lines: what became of one example through training, over all jobs and versions.

A *point* is one measurement of a probe at one step of its lineage. It is *right* if the model's own
answer is the expected one, but for case, white space, the way a number is written, and quotes and
full stops at its ends; where the model was not asked, if every token of the expected answer was the
most likely one. A life line is the list of its points in the order of steps; its state is the first
of these that holds:

    new          measured once, or twice without a clear fall of its loss: too early to say
    unstable     changed between right and wrong 3 times or more within its last 8 points
    learned      right at its last two points, or at the last one if that closed a job
    forgotten    was learned once, and is not now
    learning     its loss has fallen by 20 % of its first value or more, but it is not right (yet)
    not learned  the job that watched it is done, and its loss has fallen by less than that
    struggling   the same while the job goes on, measured 3 times or more

Only what the model of today is made of counts: points of kept segments in the head's ancestry and
of the open one, and of these only what a superseded owner did before its successor began.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from shared.answers.evolution import State

STATES: tuple[State, ...] = (
    "new",
    "learning",
    "learned",
    "struggling",
    "not learned",
    "forgotten",
    "unstable",
)
CLEAR_FALL = 0.2  # of the first loss
CHANGES = 3
CHANGE_WINDOW = 8  # points: a probe that has settled since is not called unstable for ever
ENOUGH_POINTS = 3


@dataclass(frozen=True)
class Point:
    """One measurement. `loss`: mean nats a token; it and `token_accuracy` are None where they were
    not a number, as after a step that went wrong. `exact_match`, `answer` and what else is said of
    an answer: None if not asked. `job_tokens`: trained on in this job so far, None if not known.

    `is_final`: taken at the last step of a job that is done. `job` is the job then trained.
    """

    global_step: int
    job: str
    split: str
    loss: float | None
    token_accuracy: float | None
    exact_match: bool | None = None
    answer: str | None = None
    first_mismatch: int | None = None
    is_final: bool = False
    fence: int = 0
    segment: str = ""
    at: str = ""
    normalized_match: bool | None = None
    similarity: float | None = None
    confidence: float | None = None
    is_cut: bool = False
    job_tokens: int | None = None

    @property
    def is_right(self) -> bool:
        if self.normalized_match is not None:
            return self.normalized_match
        if self.exact_match is not None:  # a file from before normalized matches
            return self.exact_match
        return self.token_accuracy is not None and self.token_accuracy >= 1.0


@dataclass(frozen=True)
class Verdict:
    """A life line's state. `step`, `job`: when it was learned, or first seen to be forgotten, and
    the job then trained; None in other states."""

    state: State
    step: int | None = None
    job: str | None = None


def line(points: Iterable[Point]) -> list[Point]:
    """Points by step, one for each: of two at one step the one with an answer, then the later."""
    best: dict[int, Point] = {}
    for point in sorted(points, key=lambda p: (p.global_step, p.fence)):
        known = best.get(point.global_step)
        if known is None:
            best[point.global_step] = point
            continue
        keeps_answer = known.exact_match is not None and point.exact_match is None
        chosen = known if keeps_answer else point
        # The weights are the same: that a job ended here stays true whichever point is kept.
        if known.is_final and not chosen.is_final:
            chosen = replace(chosen, is_final=True)
        best[point.global_step] = chosen
    return [best[step] for step in sorted(best)]


def judge(points: Sequence[Point]) -> Verdict:
    """The state of a life line, as `line` returns it; at least one point."""
    learned_at = [n for n in range(len(points)) if is_learned(points, n)]
    if len(points) == 1:
        return Verdict("new")
    if changes(points[-CHANGE_WINDOW:]) >= CHANGES:
        return Verdict("unstable")
    if learned_at and learned_at[-1] == len(points) - 1:
        first = points[last_run(points)]
        return Verdict("learned", first.global_step, first.job)
    if learned_at:
        lost = next(p for p in points[learned_at[-1] + 1 :] if not p.is_right)
        return Verdict("forgotten", lost.global_step, lost.job)
    if has_fallen(points):
        return Verdict("learning")
    if is_over(points):
        return Verdict("not learned")
    return Verdict("struggling" if len(points) >= ENOUGH_POINTS else "new")


def is_learned(points: Sequence[Point], at: int) -> bool:
    """Whether the probe counts as learned as of the point at this index."""
    if not points[at].is_right:
        return False
    return points[at].is_final or (at > 0 and points[at - 1].is_right)


def last_run(points: Sequence[Point]) -> int:
    """Index of the first point of the unbroken run of right ones at the end."""
    first = len(points) - 1
    while first > 0 and points[first - 1].is_right:
        first -= 1
    return first


def changes(points: Sequence[Point]) -> int:
    """How often right turned to wrong or back."""
    return sum(a.is_right != b.is_right for a, b in pairwise(points))


def is_over(points: Sequence[Point]) -> bool:
    """Whether the job that watched it as one of its own is done."""
    own = [point for point in points if point.split != "earlier"]
    return not own or own[-1].is_final


def has_fallen(points: Sequence[Point]) -> bool:
    start = next((point.loss for point in points if point.loss is not None), None)
    end = points[-1].loss
    return start is not None and end is not None and start > 0 and end <= (1 - CLEAR_FALL) * start
