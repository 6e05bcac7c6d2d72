"""How small a micro-batch may become."""

FLOOR_TOKENS = 64  # smaller micro-batches are not tried: the weights fill the memory, not these


def smaller(micro_tokens: int) -> int | None:
    """The micro-batch to try after memory ran out; None at the floor."""
    half = micro_tokens // 2
    return half if half >= FLOOR_TOKENS else None
