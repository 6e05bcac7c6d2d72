"""One job on the screen: its fields, why it failed, its runs and its history."""

import textwrap
from itertools import zip_longest
from typing import Any

from services.ctl import cli
from services.ctl.views import history, left_out
from services.ctl.views.columns import count_of, moment_of
from shared.ledger.jobs import Job


def print_job(job: Job, value: dict[str, Any], details: bool) -> None:
    queued = moment_of(value["queued_at"])
    fields = [
        (
            "file",
            f"{value['name']}  ({count_of(value['rows'], 'row')}, {history.tokens_text(value)})",
        ),
        ("state", history.state_text(value)),
        ("queued", f"{queued} UTC, {value['level']} priority, attempt {value['attempt']}"),
        ("lineage", value["lineage"]),
        ("settings", ", ".join(f"{k} {v}" for k, v in value["settings"].items()) or "defaults"),
        ("dataset", value["dataset"]),
        ("plan", value["plan"] or "none yet: it is made when training of the job begins"),
        ("log", value["log"] or "none yet"),
    ]
    cli.console.print(value["job"], style="bold")
    if value["new"]:
        fields.append(("new", left_out.new_line(value["new"])))
    for name, shown in fields:
        cli.console.print(f"{name:9}{shown}", soft_wrap=True)
    reasons = left_out.reason_lines(value["left_out"])
    for name, shown in zip_longest(["left out"], reasons, fillvalue=""):
        cli.console.print(f"{name:9}{shown}", soft_wrap=True)
    if value["ignored"]:
        ignored = left_out.ignored_text(value["ignored"])
        cli.console.print(f"ignored  {ignored}", soft_wrap=True)
    if value["failure"]:
        cli.console.print()
        print_failure(value["failure"], value["state"])
    if value["segments"]:
        cli.console.print()
        cli.print_table(history.run_heads(details), history.run_rows(value["segments"], details))
    cli.console.print()
    cli.print_table(history.HISTORY_HEADS, history.history_rows(job, details))


def print_failure(failure: dict[str, Any], state: str) -> None:
    """Print why a job failed, or why it was skipped, which is nothing to worry about."""
    lines = failure["message"].splitlines() or [""]
    said, style = f"failed ({failure['kind']})", "red"
    if state == "skipped":
        said, style = "skipped", "none"
    cli.console.print(f"{said}: {lines[0]}", style=style)
    for line in lines[1:]:
        wrapped = textwrap.fill(line, cli.console.width - 2, initial_indent="  ")
        cli.console.print(wrapped)
    if failure["next_step"]:
        cli.console.print(f"Next: {failure['next_step']}", soft_wrap=True)
