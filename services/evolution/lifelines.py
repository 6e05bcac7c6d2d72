"""Life lines: what became of one example through training, over all jobs and versions.

A *point* is one measurement of a probe at one step of its lineage. It is *right* if the model's own
answer is the expected one apart from case, white space, the way a number is written, and quotes and
full stops at its ends. Where the model was not asked, the point is right if every token of the
expected answer was the most likely one. A life line is the list of a probe's points in the order of
steps; its state is the first of these that holds:

    new          measured once, or twice without a clear fall of its loss: too early to say
    unstable     changed between right and wrong 3 times or more within its last 8 points
    learned      right at its last two points, or at the last one if that closed a job
    forgotten    was learned before, and is not now
    learning     its loss has fallen by 20 % of its first value or more, but it is not right (yet)
    not learned  the job that watched it is done, and its loss has fallen by less than that
    struggling   the same while the job continues, measured 3 times or more

Only the training that led to the model of today counts: points of kept segments in the head's
ancestry and of the open segment, and of these only what a superseded owner measured before its
successor began.
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
CHANGE_WINDOW = 8  # points: a probe that has settled since is no longer called unstable
ENOUGH_POINTS = 3


@dataclass(frozen=True)
class Point:
    """A measurement of a probe at one step of its lineage.

    `loss` is the mean in nats a token; it and `token_accuracy` are None where they were not a
    number, as after a step that went wrong. `exact_match`, `answer` and the other values about an
    answer are None if the model was not asked. `job_tokens` counts the tokens trained on in this
    job so far, or is None if that is not known.

    `is_final`: taken at the last step of a job that is done. `job` is the job that was then
    trained.
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
    """The state of a life line.

    `step` is where it was learned, or first seen to be forgotten, and `job` the job that was then
    trained; both are None in other states.
    """

    state: State
    step: int | None = None
    job: str | None = None


def line(points: Iterable[Point]) -> list[Point]:
    """Return the points by step, one for each.

    Of two at one step, one with an answer is preferred, then the later one.
    """
    best: dict[int, Point] = {}
    for point in sorted(points, key=lambda p: (p.global_step, p.fence)):
        known = best.get(point.global_step)
        if known is None:
            best[point.global_step] = point
            continue
        keeps_answer = known.exact_match is not None and point.exact_match is None
        chosen = known if keeps_answer else point
        # The weights are the same: that a job ended here stays true whichever point is kept.
        is_final = known.is_final or point.is_final
        best[point.global_step] = replace(chosen, is_final=is_final)
    return [best[step] for step in sorted(best)]


def judge(points: Sequence[Point]) -> Verdict:
    """Return the state of a life line, given as `line` returns it; it has at least one point."""
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
    """Return whether the probe counts as learned as of the point at this index."""
    if not points[at].is_right:
        return False
    return points[at].is_final or (at > 0 and points[at - 1].is_right)


def last_run(points: Sequence[Point]) -> int:
    """Return the index of the first point of the unbroken run of right ones at the end."""
    first = len(points) - 1
    while first > 0 and points[first - 1].is_right:
        first -= 1
    return first


def changes(points: Sequence[Point]) -> int:
    """Return how often right turned to wrong or back."""
    return sum(a.is_right != b.is_right for a, b in pairwise(points))


def is_over(points: Sequence[Point]) -> bool:
    """Return whether the job that watched it as one of its own is done."""
    own = [point for point in points if point.split != "earlier"]
    return not own or own[-1].is_final


def has_fallen(points: Sequence[Point]) -> bool:
    start = next((point.loss for point in points if point.loss is not None), None)
    end = points[-1].loss
    return start is not None and end is not None and start > 0 and end <= (1 - CLEAR_FALL) * start
