"""Finds the rows of a file that a lineage has already trained, by their ids, and says so."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from shared.formats.plan import ChangedRow, KnownFrom, KnownRows, UsedRows
from shared.formats.row_ids import NO_PROMPT, ids_in
from shared.formats.version import version_name

CHANGED_LISTED = 20


class EarlierJob(NamedTuple):
    """A job that trained rows before. What is not needed of it is never read.

    `version` is the first that holds its training, or None while none does.
    """

    job: str
    version: int | None
    ids: Callable[[], bytes]  # the records of its dataset's row_ids.bin
    used: Callable[[], UsedRows]  # what its plan did with that dataset's rows


class Uses(NamedTuple):
    """By id, the index of the newest job that used a row, or that answered a prompt."""

    trained: dict[bytes, int]
    answered: dict[bytes, int]
    held_out: set[bytes]
    left_out: set[bytes]


def known_rows(own: bytes, earlier: Sequence[EarlierJob]) -> tuple[KnownRows, set[int]]:
    """Return what the earlier jobs, newest first, knew of a file, which its records describe.

    The set holds the rows that they left out, by number.
    """
    uses = uses_of(own, earlier)
    # A prompt that still has its old answer in this file has been given a second one.
    kept = {prompt for row, prompt in ids_in(own) if row in uses.trained}
    trained: list[int] = []
    changed: list[ChangedRow] = []
    left_out: set[int] = set()
    held_out = changes = 0
    counts: Counter[int] = Counter()
    for at, (row, prompt) in enumerate(ids_in(own)):
        if row in uses.trained:
            trained.append(at)
            counts[uses.trained[row]] += 1
        elif row in uses.held_out:
            held_out += 1
        elif row in uses.left_out:
            left_out.add(at)
        elif prompt in uses.answered and prompt not in kept:
            changes += 1
            job = earlier[uses.answered[prompt]]
            if changes <= CHANGED_LISTED:
                changed.append(ChangedRow(row=at, job=job.job, version=job.version))
    jobs = [(earlier[number], count) for number, count in sorted(counts.items())]
    known = KnownRows(
        trained=tuple(ranges(trained)),
        count=len(trained),
        held_out=held_out,
        left_out=len(left_out),
        jobs=tuple(KnownFrom(job=j.job, version=j.version, rows=count) for j, count in jobs),
        changed=changes,
        changed_rows=tuple(changed),
    )
    return known, left_out


def uses_of(own: bytes, earlier: Iterable[EarlierJob]) -> Uses:
    """Return what earlier jobs did with rows and prompts of this file."""
    rows = {row for row, _ in ids_in(own)}
    prompts = {prompt for _, prompt in ids_in(own)} - {NO_PROMPT}
    found = Uses({}, {}, set(), set())
    for number, job in enumerate(earlier):
        records = job.ids()
        if not any(row in rows or prompt in prompts for row, prompt in ids_in(records)):
            continue
        used = job.used()
        for at, (row, prompt) in enumerate(ids_in(records)):
            if at in used.trained:
                if row in rows:
                    found.trained.setdefault(row, number)
                if prompt in prompts:
                    found.answered.setdefault(prompt, number)
            elif row in rows and at in used.held_out:
                found.held_out.add(row)
            elif row in rows and at in used.left_out:
                found.left_out.add(row)
    return found


def ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield rising numbers as [start, end)."""
    start = end = -1
    for number in numbers:
        if number != end:
            if start >= 0:
                yield start, end
            start = number
        end = number + 1
    if start >= 0:
        yield start, end


# ---- as people read it ---------------------------------------------------------------------------


def new_rows_text(rows: int, known: KnownRows) -> str:
    """Return how much of a file is new, such as `new: 20 of 1,020 rows; 3 answers changed`."""
    new = rows - known.all
    text = f"new: {new:,} of {counted(rows, 'row')}"
    return text + (f"; {counted(known.changed, 'answer')} changed" if known.changed else "")


def nothing_new_text(rows: int, known: KnownRows) -> str:
    """Return the sentence, without its capital and its full stop, for a file that is all known."""
    whole = f"all its {counted(rows, 'row')}" if rows > 1 else "its only row"
    have, are, were = ("have", "are", "were") if rows > 1 else ("has", "is", "was")
    told = [f"{have} already been trained"] if known.count else []
    told += [f"{are} held out to be measured"] if known.held_out else []
    told += [f"{were} left out"] if known.left_out else []
    return f"{whole} {' or '.join(told)}: see {all_places(known)}"


def all_places(known: KnownRows) -> str:
    """Return where known rows were trained, such as `v002, v003`."""
    return ", ".join(sorted({trained_in(job) for job in known.jobs}))


def trained_in(job: KnownFrom) -> str:
    """Return the version that first held what a job trained, or the job while there is none."""
    return version_name(job.version) if job.version else f"job {job.job}"


def counted(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
