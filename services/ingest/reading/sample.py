"""A sample of the rows that were read: the first ones, and some from everywhere in the file.

It is made in the parser's child, and bounded: somebody else counts the tokens of these rows.
"""

from pathlib import Path

from shared.answers.ingest import SampledRow
from shared.formats.dataset import DATA, SOURCE, RowOrigin

FIRST_ROWS = 3
SAMPLED = 200
ROW_BYTES = 64 << 10  # a larger row is named, and its bytes are left out
ALL_BYTES = 2 << 20


def take_sample(folder: Path, rows: int) -> list[SampledRow]:
    """Return the first of the `rows` of data.jsonl in `folder`, and others spread evenly over it.

    They are `SAMPLED` together, or fewer where they are larger than `ALL_BYTES`.
    """
    first_rows, others = min(FIRST_ROWS, rows), rows - FIRST_ROWS
    spread = min(others, SAMPLED - FIRST_ROWS)
    evenly = (FIRST_ROWS + n * others // spread for n in range(spread))
    wanted = {*range(first_rows), *evenly}
    found: dict[int, SampledRow] = {}
    with (folder / DATA).open("rb") as data, (folder / SOURCE).open("rb") as source:
        for number, (line, origin) in enumerate(zip(data, source, strict=False)):
            if number in wanted:
                found[number] = sampled(number, line.removesuffix(b"\n"), origin)
                if len(found) == len(wanted):
                    break
    first = [found.pop(n) for n in range(FIRST_ROWS) if n in found]
    rest = list(found.values())
    while rest and bytes_sent([*first, *rest]) > ALL_BYTES:
        rest = rest[1::2]
    return [*first, *rest]


def sampled(number: int, line: bytes, origin: bytes) -> SampledRow:
    """Return row `number`, from 0, without its bytes if there are too many."""
    return SampledRow(
        row=number + 1,
        line=RowOrigin.model_validate_json(origin).line,
        bytes=len(line),
        data=line.decode() if len(line) <= ROW_BYTES else None,
    )


def bytes_sent(rows: list[SampledRow]) -> int:
    return sum(row.bytes for row in rows if row.data is not None)
