"""Which rows are held out and watched is a function of what they say."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.worker.data.draw import HELDOUT_ROWS, draw, draw_by_length, heldout
from shared.formats.dataset import ChatTurn, row_id
from shared.formats.probe import Probe

ids = st.lists(st.binary(max_size=8).map(row_id), max_size=60)


@given(ids, st.integers(0, 20))
def test_a_draw_does_not_depend_on_order_or_repetition(found: list[str], count: int) -> None:
    again = sorted(found) + found
    assert draw(found, count, "x") == draw(again, count, "x")
    assert len(draw(found, count, "x")) == min(count, len(set(found)))


def test_small_files_are_trained_whole() -> None:
    assert heldout([row_id(b"%d" % n) for n in range(199)], 0.05) == set()


def test_a_twentieth_of_a_larger_file_is_held_out_and_never_more_than_64_rows() -> None:
    many = [row_id(b"%d" % n) for n in range(10_000)]
    assert len(heldout(many[:240], 0.05)) == 12
    assert len(heldout(many, 0.05)) == HELDOUT_ROWS
    assert heldout(many, 0.05) == heldout(many[::-1], 0.05)


def test_the_newline_is_no_part_of_a_row() -> None:
    assert row_id(b'{"messages":[]}\n') == row_id(b'{"messages":[]}')


def test_a_probe_is_about_its_last_answer() -> None:
    turns = [("user", "a?"), ("assistant", "a"), ("user", "b?"), ("assistant", "b")]
    messages = tuple(ChatTurn.model_validate({"role": r, "content": c}) for r, c in turns)
    probe = Probe(id="0" * 64, split="trained", dataset="1" * 64, row=0, messages=messages)
    assert probe.expected == "b"
    assert probe.prompt == "user: a?\nassistant: a\nuser: b?"
    assert Probe(**{**probe.model_dump(), "messages": messages[:2]}).prompt == "a?"


@given(st.dictionaries(st.binary(max_size=8).map(row_id), st.integers(0, 50), max_size=60))
def test_short_and_long_rows_are_drawn_in_the_proportions_of_the_file(
    lengths: dict[str, int],
) -> None:
    count = len(lengths) // 2
    drawn = draw_by_length(lengths, count, "x")
    assert drawn == draw_by_length(dict(reversed(lengths.items())), count, "x")
    assert len(set(drawn)) == count
    ordered = sorted(lengths.values())
    for name, rank in zip(drawn, range(count), strict=True):
        assert ordered[2 * rank] <= lengths[name] <= ordered[min(2 * rank + 2, len(ordered) - 1)]
