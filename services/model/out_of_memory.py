"""Recognises errors that mean that memory ran out, on a GPU or on a CPU."""

SIGNS = (
    *("out of memory", "can't allocate memory", "not enough memory", "bad_alloc"),
    *("STATUS_ALLOC_FAILED", "ALLOCATION_FAILED"),  # cuBLAS, cuSOLVER and cuDNN for their own
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: torch.OutOfMemoryError, or what a CPU's allocators raise."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)
