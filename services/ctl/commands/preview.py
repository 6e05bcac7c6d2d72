"""`duramen preview FILE`: what a training file holds, and how the model would read it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.ctl import cli
from services.ctl.commands.submit import (
    Settings,
    SubmissionRefused,
    ingest_client,
    problem_line,
    with_sidecar,
)
from services.ctl.settings import CtlSettings
from services.ctl.views import previewed
from shared.answers.ingest import Preview
from shared.answers.trainer import RowsPreviewed, RowsToPreview
from shared.errors import DuramenError
from shared.foreign_text import plain

RENDER_SECONDS = 45.0
PROBLEMS = 5  # printed; --json has up to a hundred


def preview(
    file: Annotated[Path, typer.Argument(help="A training file: .jsonl, .json, .csv, .parquet, …")],
    again: Annotated[
        bool, typer.Option("--again", help="As if it was submitted with --again.")
    ] = False,
    settings: Settings = None,
    lineage: cli.Lineage = "main",
    json: cli.Json = False,
) -> None:
    """Show what submitting a file would do, and its rows as the model would read them.

    Nothing is stored or queued. A data.yaml beside data.jsonl counts as it does for submit, and
    so does --set. The exit code is that of submit: 0 if the file would be queued, 1 if refused.
    """
    ingest = ingest_client(file)
    query = {"name": file.name, "lineage": lineage, "again": str(again).lower()}
    query |= with_sidecar(file)
    with ingest:
        waiting(f"Ingest reads {file.name} …")
        found = ingest.preview(file, query, settings or [])
    if not json:
        print_file(found)
    tokens, missing = rendered(cli.settings(), found)
    if json:
        shown: dict[str, Any] = {"report": found.report.model_dump(mode="json", exclude_none=True)}
        rows = [row.model_dump(mode="json") for row in found.rows[:3]]
        shown |= {"rows": rows, "tokens": tokens, "tokens_missing": missing}
        cli.emit(shown, True, typer.echo)
    else:
        print_rows(found, tokens, missing)
    report = found.report
    if report.outcome == "refused":
        message = f"{report.name} would be refused: {report.why}"
        raise SubmissionRefused(message, next_step=report.next_step)


def rendered(config: CtlSettings, found: Preview) -> tuple[RowsPreviewed | None, str | None]:
    """Return what the trainer makes of the rows, or None and the reason why there is nothing."""
    rows = [row for row in found.rows if row.data is not None]
    if not rows:
        return None, "there is no row to show" if not found.rows else "all rows are too large"
    if not config.trainer_url:
        return None, "the address of the trainer is not set (DURAMEN_TRAINER_URL)"
    own: dict[str, Any] = found.report.settings
    asked = RowsToPreview(
        rows=tuple(row.data or "" for row in rows),
        shown=sum(row.row <= previewed.ROWS_SHOWN for row in rows),
        max_length=own.get("max_length"),
        on_long=own.get("on_long"),
    )
    path = f"/api/preview/{found.report.lineage}"
    waiting(f"The trainer renders {len(rows)} rows, for up to {RENDER_SECONDS:.0f} seconds …")
    try:
        return (
            cli.ask(
                RowsPreviewed,
                config.trainer_url,
                config.trainer_token,
                path,
                method="POST",
                seconds=RENDER_SECONDS,
                content=asked.model_dump_json(),
            ),
            None,
        )
    except DuramenError as error:
        return None, error.said


def waiting(sentence: str) -> None:
    """Say what is waited for, to a person at a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(plain(sentence) + "\n")


def print_file(found: Preview) -> None:
    """Print what ingest says of the file."""
    report = found.report
    if report.outcome == "refused":
        put(f"{report.name} would be refused", "bold")
    else:
        known = "is a duplicate: " if report.outcome == "duplicate" else ""
        put(f"{report.name} {known}{report.why}", "bold")
    for sentence in previewed.file_lines(report):
        put(sentence)
    # The reason of a refusal is said at the end.
    problems = [p for p in report.problems if p.message != report.why]
    for problem in problems[:PROBLEMS]:
        put(problem_line(problem), "yellow" if report.outcome == "queued" else "red")
    if len(problems) > PROBLEMS:
        put(f"  … and {previewed.more_problems(report, PROBLEMS)}; --json lists up to 100")


def print_rows(found: Preview, tokens: RowsPreviewed | None, missing: str | None) -> None:
    """Print the first rows, and what the trainer counted of the sample."""
    if tokens is None:
        if found.rows:
            put(f"No tokens are shown: {missing}", "yellow")
        for stored in found.rows[: previewed.ROWS_SHOWN]:
            put(previewed.stored_row(stored))
        return
    drawn = iter(tokens.shown)
    for stored in found.rows[: previewed.ROWS_SHOWN]:
        if stored.data is None:
            put(previewed.stored_row(stored))
        elif row := next(drawn, None):
            for heading, words in previewed.drawn_row(stored, row, colours=cli.has_colours()):
                put(heading, "bold")
                cli.console.print(words)
    for sentence in previewed.token_lines(found, tokens):
        put(sentence)
    for sentence in previewed.warnings(found, tokens):
        put(sentence, "yellow")


def put(sentence: str, style: str = "") -> None:
    cli.console.print(sentence, style=style, soft_wrap=True)
