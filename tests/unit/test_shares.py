"""Tests are shared out so that no process is left alone with those that take long."""

from itertools import pairwise

from tests.shares import shared_out

SLOW = [(f"slow{file}", number, 4) for file in range(6) for number in range(3)]
QUICK = [("quick", number, 0) for number in range(61)]


def test_each_part_has_as_much_of_what_takes_long_and_begins_with_it() -> None:
    ordered = shared_out(QUICK + SLOW, 3, lambda item: item[2], lambda item: item[0])
    assert sorted(ordered) == sorted(QUICK + SLOW)
    for part in (ordered[:26], ordered[26:52], ordered[52:]):
        weights = [weight for _, _, weight in part]
        assert sum(weights) == 24
        assert all(before >= after for before, after in pairwise(weights))
        assert len({file for file, _, weight in part if weight}) == 2


def test_one_process_runs_the_longest_first() -> None:
    ordered = shared_out(QUICK + SLOW, 1, lambda item: item[2], lambda item: item[0])
    assert ordered == SLOW + QUICK


def test_more_that_takes_long_than_a_part_holds_is_kept() -> None:
    ordered = shared_out(SLOW, 4, lambda item: item[2], lambda item: item[0])
    assert sorted(ordered) == sorted(SLOW)
