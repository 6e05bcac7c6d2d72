"""The order of tests for several processes: each gets its share of what takes long, and first."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shared_out(
    items: Sequence[T], shares: int, weight: Callable[[T], int], group: Callable[[T], object]
) -> list[T]:
    """Return the items in an order whose `shares` equal parts take about the same time.

    `weight` is 0 for what takes no time; of that, each part has as much as it lacks in number, and
    at its end. Items of one group stay together, in their order, unless they weigh nothing.
    """
    heavy: dict[object, list[T]] = defaultdict(list)
    for item in items:
        if weight(item):
            heavy[group(item)].append(item)
    parts: list[list[T]] = [[] for _ in range(shares)]
    weights = [0] * shares
    for each in sorted(heavy.values(), key=lambda e: sum(map(weight, e)), reverse=True):
        least = weights.index(min(weights))
        parts[least] += each
        weights[least] += sum(map(weight, each))
    light = [item for item in items if not weight(item)]
    for number, part in enumerate(parts):
        part.sort(key=weight, reverse=True)
        size = (len(items) * (number + 1)) // shares - (len(items) * number) // shares
        lacks = max(0, size - len(part))
        part.extend(light[:lacks])
        del light[:lacks]
    return [item for part in parts for item in part] + light
