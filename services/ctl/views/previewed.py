"""What a preview says, as lines for a terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from services.ctl.views.columns import count_of, fitted, size_of
from services.ctl.views.tokens import drawn
from shared.answers.ingest import Preview, SampledRow
from shared.answers.trainer import ROWS_SHOWN, PreviewedRow, RowsPreviewed, ShownSequence
from shared.foreign_text import one_line
from shared.formats.report import Contents, Report
from shared.protocol.allowance import Allowance

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["ROWS_SHOWN"]

ROW_CHARS = 300  # of a row without tokens
SHOWN_TOKENS = 60  # tokens shown of each end of a row
LINES_LISTED = 10
TOO_LONG = "longer than "  # said of all such rows at once


# ---- the file ------------------------------------------------------------------------------------


def file_lines(report: Report) -> Iterator[str]:
    """Yield what a file holds, and the settings of its job."""
    contents = report.contents
    if contents is not None:
        size = size_of(contents.original_bytes)
        yield f"  {contents.container}, {size}, {count_of(contents.lines, 'line')}"
        layouts = f" ({counted_names(contents.layouts)})" if contents.layouts else ""
        yield f"  {count_of(contents.rows, 'row')}{layouts}"
        yield from left_out_lines(contents)
    if report.settings:
        values = ", ".join(f"{name}: {value}" for name, value in report.settings.items())
        yield f"  settings: {one_line(values)}"


def left_out_lines(contents: Contents) -> Iterator[str]:
    """Yield what of a file would not be trained."""
    if contents.ignored_fields:
        yield f"  ignored fields: {counted_names(contents.ignored_fields)}"
    if contents.duplicate_rows:
        lines = ", ".join(map(str, contents.duplicate_lines[:LINES_LISTED]))
        more = ", …" if contents.duplicate_rows > LINES_LISTED else ""
        rows = count_of(contents.duplicate_rows, "repeated row")
        yield f"  {rows} left out: line {lines}{more}"
    if contents.bad_rows:
        allowed = f"; allow_bad: {contents.allow_bad}" if contents.allow_bad else ""
        rows = count_of(contents.bad_rows, "bad row")
        yield f"  {rows}: {counted_names(contents.rules)}{allowed}"


def counted_names(found: Mapping[str, int]) -> str:
    """Return names with how often each occurs."""
    return ", ".join(f"{one_line(name)} {number:,}" for name, number in found.items())


def more_problems(report: Report, printed: int) -> str:
    bad = report.contents.bad_rows if report.contents else 0
    return count_of(max(len(report.problems), bad) - printed, "more problem")


# ---- its rows ------------------------------------------------------------------------------------


def row_name(row: SampledRow) -> str:
    return f"row {row.row} (line {row.line})"


def stored_row(row: SampledRow) -> str:
    """Return a row as it would be stored, or its beginning."""
    if row.data is None:
        return f"{row_name(row)} is too large to be shown: {size_of(row.bytes)}"
    return f"{row_name(row)}: {fitted(one_line(row.data), ROW_CHARS)}"


def drawn_row(
    source: SampledRow, row: PreviewedRow, *, colours: bool
) -> Iterator[tuple[str, "Text | str"]]:
    """Yield a heading and the tokens of each sequence of a row."""
    name = row_name(source)
    if row.failed:
        yield f"{name} cannot be trained: {row.failed.message}", row.failed.example or ""
    elif row.left_out and not row.sequences:
        yield f"{name} would not be trained: {row.left_out}", ""
    for number, sequence in enumerate(row.sequences, 1):
        part = f", sequence {number} of {len(row.sequences)}" if len(row.sequences) > 1 else ""
        heading = f"{name}{part}: {count_of(sequence.tokens, 'token')}, {sequence.trained} trained"
        heading += f"; it would not be trained: {row.left_out}" if row.left_out else ""
        yield heading, both_ends(sequence, colours=colours)


def both_ends(sequence: ShownSequence, *, colours: bool) -> "Text":
    """Return the tokens of a sequence, or those of its beginning and its end."""
    tokens = [*sequence.head, *sequence.tail]
    if sequence.tokens <= 2 * SHOWN_TOKENS:
        text = drawn(tokens, colours=colours)
    else:
        text = drawn(tokens[:SHOWN_TOKENS], colours=colours)
        left_out = count_of(sequence.tokens - 2 * SHOWN_TOKENS, "token")
        text.append(f" … {left_out} … ", style="bold")
        text.append_text(drawn(tokens[-SHOWN_TOKENS:], colours=colours))
    text.rstrip()
    return text


# ---- what was counted ----------------------------------------------------------------------------


def about(found: Preview, tokens: RowsPreviewed, counted: int) -> str:
    """Return how many rows of the file that is, said to be an estimate where it is one."""
    rows = found.report.contents.rows if found.report.contents else tokens.counted
    if tokens.counted >= rows:
        return f"{counted:,} of {count_of(rows, 'row')}"
    number = max(counted, round(rows * counted / tokens.counted))
    return f"about {number:,} of {count_of(rows, 'row')}, from a sample of {tokens.counted}"


def token_lines(found: Preview, tokens: RowsPreviewed) -> Iterator[str]:
    """Yield lengths and counts of tokens."""
    counted = f"the {count_of(tokens.counted, 'row')} looked at"
    if tokens.length_max is not None:
        yield (
            f"Tokens in a row: half of {counted} have at most {tokens.length_50:,}, 95 % at most "
            f"{tokens.length_95:,}, the longest has {tokens.length_max:,}; "
            f"the limit (max_length) is {tokens.max_length:,}."
        )
    rows = found.report.contents.rows if found.report.contents else tokens.counted
    if tokens.fit:
        whole = rows <= tokens.counted
        all_rows = 1 if whole else rows / tokens.counted
        yield (
            f"Tokens in an epoch: {'' if whole else 'about '}{count_of(tokens.tokens * all_rows)}, "
            f"{count_of(tokens.trained * all_rows)} of them trained"
            f"{'' if whole else f', from a sample of {tokens.counted} rows'}."
        )


def warnings(found: Preview, tokens: RowsPreviewed) -> Iterator[str]:
    """Yield what usually goes unseen."""
    sampled = [row for row in found.rows if row.data is not None]
    if tokens.too_long:
        cut = "cut to" if tokens.on_long == "truncate" else "not trained: longer than"
        yield f"! {cut} {tokens.max_length:,} tokens: {about(found, tokens, tokens.too_long)}"
    for unfit in tokens.unfit:
        if not unfit.reason.startswith(TOO_LONG):
            place = f"line {sampled[unfit.first].line}"
            rows = about(found, tokens, unfit.rows)
            yield f"! not trained: {one_line(unfit.reason)}: {rows} ({place})"
    yield from too_bad(found, tokens)
    for unseen in tokens.unseen:
        if unseen.kind != "cut":
            looked = f"{unseen.rows} of {count_of(unseen.of, 'row')} looked at"
            yield f"! {one_line(unseen.message)}: {looked}"
    large = len(found.rows) - len(sampled)
    if large:
        yield f"! too large to be counted here: {count_of(large, 'row')} of the sample"


def too_bad(found: Preview, tokens: RowsPreviewed) -> Iterator[str]:
    """Yield that the job would fail, if more rows are bad than it may have."""
    allowed = found.report.settings.get("allow_bad")
    limit = Allowance.of(str(allowed) if allowed else None)
    if tokens.bad and not limit.covers(tokens.bad, tokens.counted):
        known = f"allow_bad is {allowed}" if allowed else "allow_bad is not set"
        yield (
            f"! the job would fail before its first step, for {known}: bad are "
            f"{about(found, tokens, tokens.bad)}. Fix them, or set allow_bad=2%"
        )
