"""Rows that only the template and the tokenizer show to be bad, and how many of them a job takes.

They count together with the rows that were found bad when the file was read, and obey the same
limit: `allow_bad`, or none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from services.trainer.protocol import Spec
from services.trainer.worker.data.encoder import Encoder, Why
from shared.errors import CannotTrain, FailureKind
from shared.files import write_synced
from shared.formats.dataset import CanonicalRow, original_lines
from shared.formats.result import BAD_ROWS, BadRows
from shared.protocol.allowance import Allowance

NAMED = 5  # rows in a message
REASON_CHARACTERS = 300
TO_ALLOW = (
    "Fix or delete these lines, or put a file with the line `allow_bad: 2%` (or a number of rows) "
    "beside the dataset, with the same name but ending in .yaml, to train the others. All bad rows "
    "are listed in NAME.bad.jsonl, beside the file in the inbox's folder done/."
)
NO_SYSTEM = (
    "This chat template takes no system turn. Make a lineage with one that does (duramen lineage "
    "new NAME --base BASE --chat-template gemma), or put the line `system: merge_into_user` into "
    "the sidecar of the file."
)


def check_bad_rows(
    spec: Spec, encoder: Encoder, rows: Sequence[CanonicalRow], bad: Mapping[int, Why], good: int
) -> None:
    """Check that no more rows are bad than the job allows. `good`: how many are trained.

    If they are too many, their numbers are written beside the plan that there would have been.
    Raises CannotTrain: `mask` if every row is wrong, whose fault is then the template's or the
    tokenizer's; `template` if the template refuses them; else `data`.
    """
    found = len(bad) + spec.bad_before, len(rows) + spec.bad_before
    if not bad or (good and Allowance.of(spec.allow_bad).covers(*found)):
        return
    if not good and all(why.example is not None for why in bad.values()):
        first = next(iter(bad.values()))
        raise CannotTrain(
            "mask",
            f"{first.reason} So it is in {all_of(len(bad))}: the chat template or the tokenizer of "
            "this base is at fault, not the file.",
            suspect=True,
            example=first.example,
        )
    write_synced(spec.plan_out.with_name(BAD_ROWS), BadRows(rows=tuple(sorted(bad))).to_bytes())
    kind: FailureKind = "template" if all(why.is_refusal for why in bad.values()) else "data"
    raise CannotTrain(kind, message(spec, encoder, rows, bad))


def all_of(count: int) -> str:
    """Return `the only row` or `all N rows`."""
    return "the only row" if count == 1 else f"all {count} rows"


def message(
    spec: Spec, encoder: Encoder, rows: Sequence[CanonicalRow], bad: Mapping[int, Why]
) -> str:
    """Return how many rows are bad, the first with their lines, and what to do about them."""
    verb = "is" if len(bad) == 1 else "are"
    most = f"allow_bad: {spec.allow_bad}" if spec.allow_bad else "no row may be: allow_bad is unset"
    count = f"{len(bad)} of {len(rows)} {'row' if len(rows) == 1 else 'rows'}"
    shown = [*bad][:NAMED]
    lines = lines_of(spec.source, shown)
    found = [f"{lines[n]}: {bad[n].reason[:REASON_CHARACTERS]}" for n in shown]
    more = [f"… and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    refused = next((rows[n] for n, why in bad.items() if why.is_refusal), None)
    hint = [NO_SYSTEM] if refused is not None and takes_no_system(encoder, refused) else []
    before = f"; {spec.bad_before} more were bad when it was read" if spec.bad_before else ""
    heading = (
        f"{count} {verb} bad, which the chat template and the tokenizer show ({most}{before})."
    )
    return "\n".join([heading, *found, *more, *hint, TO_ALLOW])


def lines_of(source: Path | None, rows: Sequence[int]) -> dict[int, str]:
    """Return for each row the line of the original, or that of the dataset where it is unknown."""
    known: dict[int, int] = {}
    if source is not None:
        with source.open("rb") as file:
            known = original_lines(file, rows)
    return {n: f"line {known[n]}" if n in known else f"row {n + 1} of the dataset" for n in rows}


def takes_no_system(encoder: Encoder, row: CanonicalRow) -> bool:
    """Return whether the template takes a row that it refuses if its system turns are left out."""
    others = tuple(m for m in row.messages if m.role != "system")
    if len(others) == len(row.messages):
        return False
    plain = CanonicalRow(row.id, others, row.tools, row.template_kwargs)
    found = encoder.encode(plain)
    return not (isinstance(found, Why) and found.bad)
