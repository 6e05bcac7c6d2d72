"""The states of a life line, from histories written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evolution.lifelines import STATES, Point, judge, line
from shared.answers.evolution import State

R, W = True, False


def points(
    rights: list[bool], losses: list[float] | None = None, final: frozenset[int] = frozenset()
) -> list[Point]:
    """One point a step; `final` names the indices that close a job."""
    return [
        Point(
            global_step=step,
            job=f"job at {step}",
            split="trained",
            loss=losses[step] if losses else 1.0,
            token_accuracy=0.5,
            exact_match=right,
            is_final=step in final,
        )
        for step, right in enumerate(rights)
    ]


@pytest.mark.parametrize(
    ("rights", "losses", "final", "state", "step"),
    [
        ([W], None, [], "new", None),
        ([R], None, [0], "new", None),
        ([W, W], [1.0, 0.9], [], "new", None),
        ([W, W], [1.0, 0.8], [], "learning", None),
        ([W, W, W], [1.0, 0.9, 0.81], [], "struggling", None),
        ([W, W, W], [1.0, 0.9, 0.8], [], "learning", None),
        ([W, W, W], [1.0, 1.5, 2.0], [], "struggling", None),
        ([W, W], [1.0, 0.9], [1], "not learned", None),
        ([W, W], [1.0, 0.5], [1], "learning", None),
        ([W, R, R], None, [], "learned", 1),
        ([W, W, R], None, [2], "learned", 2),
        ([W, W, R], [1.0, 1.0, 0.1], [], "learning", None),
        ([R, R], None, [], "learned", 0),
        ([W, R, R, W], None, [], "forgotten", 3),
        ([W, R, R, W, W], None, [], "forgotten", 3),
        ([W, R, W], None, [1], "forgotten", 2),
        ([W, R, W, R], None, [], "unstable", None),
        ([W, R, R, W, R], None, [], "unstable", None),
        ([W, R, W, R, R, R, R, R, R, R, R], None, [], "learned", 3),
    ],
)
def test_a_history_has_this_state(
    rights: list[bool],
    losses: list[float] | None,
    final: list[int],
    state: State,
    step: int | None,
) -> None:
    verdict = judge(points(rights, losses, frozenset(final)))
    assert (verdict.state, verdict.step) == (state, step)
    assert verdict.job == (None if step is None else f"job at {step}")


def test_without_an_answer_every_token_must_be_right() -> None:
    def unanswered(step: int, accuracy: float) -> Point:
        return Point(step, "job", "trained", 1.0, accuracy)

    assert judge([unanswered(0, 1.0), unanswered(1, 1.0)]).state == "learned"
    assert judge([unanswered(0, 1.0), unanswered(1, 0.99)]).state != "learned"


def test_an_answer_outweighs_the_tokens() -> None:
    wrong = Point(1, "job", "trained", 1.0, 1.0, exact_match=False)
    assert not wrong.is_right


def test_of_two_points_at_one_step_the_one_with_an_answer_stays() -> None:
    asked = Point(4, "first", "trained", 1.0, 0.5, exact_match=True, fence=7, is_final=True)
    unasked = Point(4, "second", "earlier", 1.0, 0.5, fence=9)
    later = Point(4, "third", "earlier", 1.0, 0.5, exact_match=False, fence=11)
    assert line([unasked, asked]) == [asked]
    (kept,) = line([asked, later])
    assert (kept.job, kept.exact_match, kept.is_final) == ("third", False, True)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20), st.booleans()), min_size=1, max_size=30))
def test_every_history_has_one_state_and_it_does_not_depend_on_the_order_given(
    history: list[tuple[bool, float, bool]],
) -> None:
    made = [
        Point(step, f"job at {step}", "heldout", loss, 0.5, exact_match=right, is_final=final)
        for step, (right, loss, final) in enumerate(history)
    ]
    verdict = judge(line(made))
    assert verdict.state in STATES
    assert verdict == judge(line(reversed(made)))
    assert (verdict.step is not None) == (verdict.state in ("learned", "forgotten"))
    if verdict.state == "learned":
        assert made[-1].is_right


def test_an_answer_is_right_however_it_is_written() -> None:
    exact, loose, wrong = (
        Point(1, "job", "trained", 1.0, 0.5, exact_match=e, normalized_match=n)
        for e, n in ((True, True), (False, True), (False, False))
    )
    assert (exact.is_right, loose.is_right, wrong.is_right) == (True, True, False)
