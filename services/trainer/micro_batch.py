"""Decides how small a micro-batch may become."""

FLOOR_TOKENS = 64  # smaller micro-batches are not tried: the weights fill the memory, not these


def smaller(micro_tokens: int) -> int | None:
    """Return the size in tokens to try after memory ran out, or None at the floor."""
    half = micro_tokens // 2
    return half if half >= FLOOR_TOKENS else None
