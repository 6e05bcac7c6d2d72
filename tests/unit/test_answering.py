"""How many answers are generated at once: bounded in number, and in the tokens that are held."""

from hypothesis import given
from hypothesis import strategies as st

from services.model.generation import batches

SIZES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 96)), max_size=40)


@given(SIZES, st.integers(1, 16), st.integers(16, 4000))
def test_all_are_taken_in_order_and_only_one_alone_may_be_larger(
    sizes: list[tuple[int, int]], most: int, most_tokens: int
) -> None:
    parts = [sizes[here] for here in batches(sizes, most, most_tokens)]
    assert [size for part in parts for size in part] == sizes
    for part in parts:
        tokens = len(part) * (max(p for p, _ in part) + max(r for _, r in part))
        assert len(part) <= most
        assert len(part) == 1 or tokens <= most_tokens


def test_half_the_tokens_give_smaller_batches() -> None:
    sizes = [(100, 28)] * 16
    assert len(list(batches(sizes, 16, 2048))) == 1
    assert len(list(batches(sizes, 16, 1024))) == 2
    assert list(batches([], 16, 1024)) == []
