"""What later files cost earlier ones, as `duramen evolution forgetting` draws it."""

from rich.text import Text

from services.ctl import cli
from services.ctl.views.columns import Cell, Heads, Rows, count_of, number, text
from services.ctl.views.comparison import share
from shared.answers.evolution import Forgetting, Forgotten, KnownShare

MOST_LISTED = 20  # forgotten examples
LOST = 0.05  # a smaller fall of the share of right answers is not marked


def print_forgetting(found: Forgetting) -> None:
    """Print the table of file and version, then the forgotten examples and what lost them."""
    if not found.versions:
        cli.console.print(f"{found.lineage} has no version yet: nothing can have been forgotten.")
        return
    heads: Heads = [text("file"), *(number(version.version) for version in found.versions)]
    rows: Rows = [[file.name or file.dataset[:12], *shares(file.known)] for file in found.files]
    cli.print_table(heads, rows)
    for version in found.versions:
        made = f"{version.version} was made at step {version.global_step} by {version.name}"
        cli.console.print(Text(made, style="dim"))
    cli.console.print()
    if not found.forgotten:
        cli.console.print("No example that was learned has been forgotten.")
        return
    names = {file.dataset: file.name for file in found.files}
    lost = count_of(len(found.forgotten), "example was", "examples were")
    cli.console.print(f"{lost} learned and then forgotten:")
    heads = ["example", text("question"), "file", "right", "wrong", text("trained between")]
    cli.print_table(heads, [lost_row(one, names) for one in found.forgotten[:MOST_LISTED]])
    if len(found.forgotten) > MOST_LISTED:
        left = len(found.forgotten) - MOST_LISTED
        cli.console.print(f"{left} more: --json lists every one.", style="dim")


def shares(known: list[KnownShare]) -> list[Cell | str]:
    """Return a cell for each version; red where less is right than at the best one before."""
    cells: list[Cell | str] = []
    best = 0.0
    for one in known:
        if one.right is None:
            cells.append("–")
            continue
        cells.append(Cell(share(one.right), "red" if one.right < best - LOST else ""))
        best = max(best, one.right)
    return cells


def lost_row(one: Forgotten, names: dict[str, str]) -> list[Cell | str]:
    return [
        one.probe[:12],
        " ".join((one.prompt or one.expected).split()),
        names.get(one.dataset) or one.dataset[:12],
        f"step {one.last_right}",
        f"step {one.first_wrong}",
        ", ".join(one.during),
    ]
