"""Two models side by side, as `duramen evolution compare` draws them."""

from rich.table import Table
from rich.text import Text

from services.ctl import cli
from services.ctl.views.columns import Cell, Heads, Rows, loss_of, number
from shared.answers.evolution import Change, ComparedExample, Comparison, MeasuredOnce
from shared.protocol.names import Split

SPLIT_NAMES: dict[Split, str] = {
    "trained": "trained",
    "heldout": "held out",
    "eval": "eval",
    "earlier": "earlier",
}
CHANGE_STYLES: dict[Change, str] = {"better": "green", "worse": "red", "same": "dim"}
SHOWN = 10  # examples


def print_comparison(found: Comparison, *, everything: bool) -> None:
    """Print counts for each kind of example, then the clearest changes with both answers."""
    for name in ("a", "b"):
        place = found.a if name == "a" else found.b
        shown = Text.assemble((f"{name.upper()}  ", "bold"), place.shown)
        cli.console.print(shown, Text(f"({place.measured} examples)", style="dim"))
    cli.console.print()
    print_counts(found)
    changed = [e for e in found.examples if everything or e.change != "same"]
    listed = changed if everything else changed[:SHOWN]
    for example in listed:
        cli.console.print()
        print_example(example)
    left = len(changed) - len(listed)
    if left:
        cli.console.print(f"\n{left} more have changed: --all shows every example.", style="dim")
    elif not changed:
        cli.console.print("\nNo example has changed clearly.")


def print_counts(found: Comparison) -> None:
    heads: Heads = ["examples", *(number(name) for name in ("n", *CHANGE_STYLES, "loss", "right"))]
    drawn: Rows = [
        [
            SPLIT_NAMES[split],
            str(counts.count),
            Cell(str(counts.better or ""), CHANGE_STYLES["better"]),
            Cell(str(counts.worse or ""), CHANGE_STYLES["worse"]),
            Cell(str(counts.same or ""), CHANGE_STYLES["same"]),
            f"{loss_of(counts.loss_a)} → {loss_of(counts.loss_b)}",
            f"{share(counts.is_right_a)} → {share(counts.is_right_b)}",
        ]
        for split, counts in found.splits.items()
    ]
    cli.print_table(heads, drawn)


def print_example(example: ComparedExample) -> None:
    """Print a line of numbers, the question, and what is expected beside what both said."""
    before, after = example.a, example.b
    file = example.file or example.dataset[:12]
    style = CHANGE_STYLES[example.change]
    cli.console.print(
        Text.assemble(
            (example.change, f"bold {style}"),
            f"  {SPLIT_NAMES[example.split]}, row {example.row + 1} of {file}, "
            f"loss {loss_of(before.loss)} → {loss_of(after.loss)}",
        )
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if example.prompt:
        table.add_row("Question", Text(example.prompt))
    table.add_row("Expected" if example.prompt else "Text", Text(example.expected))
    for name, look in (("A said", before), ("B said", after)):
        table.add_row(name, said(look))
    cli.console.print(table)


def said(look: MeasuredOnce) -> Text:
    """Return an answer, green if it is right, with how sure the model was and how close it came."""
    if look.answer is None:
        right = "every word right" if look.is_right else f"{share(look.token_accuracy)} right"
        return Text(f"(not asked; {right} when the answer is given)", style="dim")
    answer = look.answer + ("…" if look.is_cut else "")
    notes = [f"sure {share(look.confidence)}"] if look.confidence is not None else []
    if look.is_right:
        notes.insert(0, "right" if look.exact_match else "right but for how it is written")
    elif look.similarity is not None:
        notes.insert(0, f"{share(look.similarity)} alike")
    colour = "green" if look.is_right else ""
    return Text.assemble((answer, colour), (f"  ({', '.join(notes)})" if notes else "", "dim"))


def share(value: float | None) -> str:
    """Return a share in percent, or a dash where nothing was asked."""
    return "–" if value is None else f"{100 * value:.0f} %"
