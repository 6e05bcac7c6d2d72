import time

import pytest

from shared.backoff import Backoff


def test_delays_double_up_to_the_longest_and_begin_again_after_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    delay = Backoff(0.5, 3.0)
    seen, over = [], [delay.is_over]
    for _ in range(5):
        delay.grow()
        over.append(delay.is_over)
        seen.append(delay.seconds)
        now += delay.seconds
        over.append(delay.is_over)
    assert seen == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert over == [True, *[False, True] * 5]
    delay.end()
    delay.grow()
    assert delay.seconds == 0.5


def test_a_first_delay_is_never_longer_than_the_longest() -> None:
    delay = Backoff(1.0, 0.2)
    delay.grow()
    assert delay.seconds == 0.2
