"""How answers are compared with what was expected."""

import pytest

from services.model.grading import grade, normalize


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The total is  1,200.50.", "the total is 1200.5"),
        ("PARIS", "Paris"),
        ("“Paris”", "Paris."),
        ("007", "7"),
        ("+3.0", "3"),
        ("line one\nline two", "Line one line two"),
    ],
)
def test_these_are_the_same_but_for_how_they_are_written(answer: str, expected: str) -> None:
    assert normalize(answer) == normalize(expected)
    graded = grade(answer, {expected})
    assert (graded.exact, graded.normalized) == (False, True)
    assert graded.similarity < 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("1.5", "15"), ("1,2", "12"), ("-3", "3"), ("Paris", "Pari"), ("v1.10.2", "v1.1.2")],
)
def test_these_are_not(answer: str, expected: str) -> None:
    assert normalize(answer) != normalize(expected)


def test_an_answer_that_was_cut_is_never_right_but_compared_with_as_much() -> None:
    assert grade(" yes ", {"yes"}).exact
    cut = grade("one two", {"one two three"}, "one two")
    assert (cut.exact, cut.normalized, cut.similarity) == (False, False, 1.0)
