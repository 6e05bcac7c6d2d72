"""The largest values that the settings of a job and of an adapter may be given.

They are checked where a value is given, never where a record is read: what was queued or made
before stays what it is. They are far above what is of use, and below what would eat memory.
"""

LARGEST: dict[str, int | float] = {
    "learning_rate": 100,
    "epochs": 1000,
    "batch_tokens": 1 << 24,
    "max_length": 1 << 20,
    "weight_decay": 100,
    "clip": 1_000_000,
    "warmup_steps": 10_000_000,
    "neftune_alpha": 10_000,
}
LARGEST_RANK = 4096
LARGEST_ALPHA = 65_536
# Rows of a plan, counted once for each epoch: a stored plan of some 200 MB.
LARGEST_PLAN = 20_000_000


def check_largest(name: str, value: object) -> None:
    """Check a setting of a job by its name in records. Raises ValueError."""
    largest = LARGEST.get(name)
    if largest is not None and isinstance(value, int | float) and value > largest:
        raise ValueError(f"it must be at most {largest:,}")


def why_too_many(rows: int, epochs: int) -> str | None:
    """Return why no plan is made for so many rows and epochs, or None."""
    if rows * epochs <= LARGEST_PLAN:
        return None
    return (
        f"{rows:,} rows in {epochs:,} epochs make {rows * epochs:,} places in the plan, and it may "
        f"have {LARGEST_PLAN:,}. Split the file, or train fewer epochs."
    )
