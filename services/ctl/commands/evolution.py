"""`duramen evolution`: what the model learned, in plots and tables, and what it answered when."""

from typing import Annotated
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from services.ctl import cli
from services.ctl.views.columns import Cell, Heads, Rows, count_of, loss_of, number, text
from services.ctl.views.comparison import SPLIT_NAMES, print_comparison, share
from services.ctl.views.curve_plot import plot
from services.ctl.views.forgetting import print_forgetting
from shared.answers.evolution import (
    Comparison,
    Curves,
    Datasets,
    ExampleHistory,
    Forgetting,
    LearningSpeed,
    Piece,
    PointShown,
    ProbeSummary,
    State,
    Summary,
    WatchedDataset,
)
from shared.errors import NotFound, UsageError

app = typer.Typer(
    no_args_is_help=True, help="Example histories: what the model learned from each file."
)
API = "/api/evolution"
STATE_STYLES: dict[State, str] = {
    "learned": "green",
    "learning": "cyan",
    "struggling": "yellow",
    "not learned": "yellow",
    "forgotten": "red",
    "unstable": "magenta",
    "new": "dim",
}
LIKELY, UNLIKELY = 0.5, 0.1  # probabilities of a token

LineageFilter = Annotated[
    str | None,
    typer.Option("--lineage", "-l", help="The lineage, if several have trained this file."),
]
Job = Annotated[str, typer.Argument(help="A job as the queue shows it, or the id of a dataset.")]


# ---- asking ------------------------------------------------------------------------------------


def ask_evolution(kind: type[cli.T], path: str, **query: object) -> cli.T:
    """Ask the evolution service one question and return its answer as `kind`."""
    config = cli.settings()
    given = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
    address = API + path + (f"?{given}" if given else "")
    return cli.ask(kind, config.evolution_url, config.evolution_token, address)


def resolve(shown: str, lineage: str | None) -> tuple[WatchedDataset, int | None]:
    """Return (dataset, run) that `3f9a1c2b7d10.1`, a prefix of it, a path or a file name means."""
    prefix, _, run = shown.partition(".")
    if shown.count("/") == 2:  # a whole path: lineage/dataset/run
        lineage, prefix, run = shown.split("/")
    mine = [
        d for d in ask_evolution(Datasets, "/datasets").datasets if lineage in (None, d.lineage)
    ]
    known = [dataset for dataset in mine if dataset.name == shown]  # `a.jsonl` is not a hash
    known = known or [dataset for dataset in mine if dataset.dataset.startswith(prefix)]
    if not known:
        raise NotFound(f"No snapshots of {shown!r} yet.", next_step="duramen evolution list")
    if len(known) > 1:
        names = ", ".join(f"{d.lineage}/{d.dataset[:12]}" for d in known)
        raise UsageError(
            f"{shown!r} may be any of {names}; use a longer prefix or name the --lineage."
        )
    named = known[0].name == shown
    return known[0], int(run) if run.isdigit() and not named else None


# ---- commands ----------------------------------------------------------------------------------


@app.command("list")
def list_datasets(json: cli.Json = False) -> None:
    """The files whose training was watched."""
    found = ask_evolution(Datasets, "/datasets")

    def human() -> None:
        if not found.datasets:
            cli.console.print(
                "There are no snapshots yet: the first is taken when training begins."
            )
            return
        heads: Heads = ["job", "lineage", number("steps"), number("snapshots"), number("trained")]
        drawn = [
            [
                ", ".join(job.shown for job in dataset.jobs),
                dataset.lineage,
                f"{dataset.first_step}–{dataset.last_step}",
                str(dataset.snapshots),
                str(dataset.probes.get("trained", 0)),
                str(dataset.probes.get("heldout", 0)),
                dataset.name,
            ]
            for dataset in found.datasets
        ]
        cli.print_table([*heads, number("held out"), text("file")], drawn)

    cli.emit(found, json, human)


@app.command()
def show(job: Job, lineage: LineageFilter = None, json: cli.Json = False) -> None:
    """Loss and exact match by step, and the state of every watched example."""
    dataset, run = resolve(job, lineage)
    named = {"lineage": dataset.lineage, "run": run}
    curves = ask_evolution(Curves, f"/snapshots/{dataset.dataset}", **named)
    summary = ask_evolution(Summary, f"/summary/{dataset.dataset}", **named)

    def human() -> None:
        cli.console.print(
            f"{dataset.name}  {dataset.dataset[:12]}  "
            f"steps {summary.first_step}–{summary.last_step} of {dataset.lineage}, "
            f"{summary.snapshots} snapshots",
            style="bold",
        )
        plot(curves.snapshots, "loss", "loss (mean over the tokens of the answers)")
        plot(curves.snapshots, "exact_match", "exact match (share of the answers asked for)")
        print_splits(summary)
        cli.console.print()
        print_probes(summary)
        command = f"duramen evolution example {job} {most_shown(summary.probes)}"
        cli.console.print(f"One example in full: {command}", style="dim")

    cli.emit({"curves": curves, "summary": summary}, json, human)


@app.command()
def example(
    job: Job,
    number: Annotated[
        int | None,
        typer.Argument(
            help="Its number in `duramen evolution show`. Without it, one that was learned."
        ),
    ] = None,
    lineage: LineageFilter = None,
    json: cli.Json = False,
) -> None:
    """One example: the question, the right answer, and what the model said at each step."""
    dataset, run = resolve(job, lineage)
    named = {"lineage": dataset.lineage, "run": run}
    probes = ask_evolution(Summary, f"/summary/{dataset.dataset}", **named).probes
    number = most_shown(probes) if number is None else number
    if not 1 <= number <= len(probes):
        raise NotFound(
            f"{dataset.name} has examples 1 to {len(probes)}.",
            next_step=f"duramen evolution show {job}",
        )
    probe = probes[number - 1]
    found = ask_evolution(ExampleHistory, f"/example/{probe.probe}", lineage=dataset.lineage)

    def human() -> None:
        role = SPLIT_NAMES[probe.split]
        cli.console.print(f"Example {number} ({role}, row {found.row + 1})", style="bold")
        cli.console.print(texts(found))
        cli.console.print(Text.assemble("State: ", *since_words(found), speed_words(found.speed)))
        if found.tokens:
            cli.console.print(heat(found.tokens))
        cli.console.print()
        cli.console.print(history_table(found.points))

    cli.emit(found, json, human)


def most_shown(probes: list[ProbeSummary]) -> int:
    """Return the number of the example to show: learned if one was, then most often answered."""
    order = sorted(probes, key=lambda p: (p.state != "learned", -p.asked))
    return order[0].number if order else 1


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="JOB, JOB@STEP, JOB@first, v003 or LINEAGE/v003.")],
    b: Annotated[str, typer.Argument(help="The same. JOB alone means its last snapshot.")],
    every: Annotated[
        bool, typer.Option("--all", help="Show every example, including unchanged ones.")
    ] = False,
    json: cli.Json = False,
) -> None:
    """Two snapshots, jobs or versions: what got better or worse, with both answers."""
    found = ask_evolution(Comparison, "/compare", a=quote(a), b=quote(b))
    cli.emit(found, json, lambda: print_comparison(found, everything=every))


@app.command()
def forgetting(lineage: LineageFilter = None, json: cli.Json = False) -> None:
    """Show how well each file was known after each version, and which files cost what was lost.

    A cell is the share of examples that were right, of those measured in the training of that
    version; a dash means that none was.
    """
    found = ask_evolution(Forgetting, "/forgetting", lineage=lineage)
    cli.emit(found, json, lambda: print_forgetting(found))


# ---- what is drawn -----------------------------------------------------------------------------


def print_splits(summary: Summary) -> None:
    """Print how well and how fast each kind of example is learned, and its states.

    They are three tables, because one would be wider than a terminal.
    """
    splits = summary.splits.items()
    titles = ("n", "loss", "exact match", "loose match", "similar")
    heads: Heads = ["examples", *(number(title) for title in titles)]
    drawn = [
        [
            SPLIT_NAMES[split],
            str(numbers.count),
            f"{loss_of(numbers.loss_first)} → {loss_of(numbers.loss_last)}",
            f"{share(numbers.exact_match_first)} → {share(numbers.exact_match_last)}",
            share(numbers.normalized_match_last),
            share(numbers.similarity_last),
        ]
        for split, numbers in splits
    ]
    cli.print_table(heads, drawn)
    cli.console.print()
    states = [s for s in STATE_STYLES if any(numbers.states[s] for _, numbers in splits)]
    counts = [
        [SPLIT_NAMES[split], *(str(numbers.states[state] or "") for state in states)]
        for split, numbers in splits
    ]
    cli.print_table(["state now", *(number(state) for state in states)], counts)
    cli.console.print()
    speeds = ("steps to learned", "tokens to learned", "loss fall / 1000 tokens")
    cli.print_table(
        ["speed", *(number(title) for title in speeds)],
        [[SPLIT_NAMES[split], *speed_cells(numbers.speed)] for split, numbers in splits],
    )


def speed_cells(speed: LearningSpeed) -> list[str]:
    steps, tokens = speed.steps_to_learned, speed.tokens_to_learned
    fall = speed.loss_fall_per_1000_tokens
    return [
        "–" if steps is None else f"{steps:g}",
        "–" if tokens is None else count_of(tokens),
        "–" if fall is None else f"{fall:.3f}",
    ]


def speed_words(speed: LearningSpeed) -> str:
    steps, tokens = speed.steps_to_learned, speed.tokens_to_learned
    if steps is None:
        return ""
    after = f", after {steps:g} steps" if steps else ", known from the first snapshot"
    return after + (f" and {count_of(tokens)} tokens of the job" if steps and tokens else "")


def heat(tokens: list[Piece]) -> Text:
    """Return the expected answer as the model now finds it.

    The words that it does not expect stand out: they are red, and in brackets.
    """
    shown = Text("Its tokens: ", style="bold")
    for token in tokens:
        surprising = token.probability < UNLIKELY
        piece = token.piece or ("⏎" if token is tokens[-1] else "")
        if surprising and piece:
            shown.append(f"[{piece}]", style="red")
        else:
            shown.append(piece, style="" if token.probability >= LIKELY else "yellow")
    shown.append(f"  ([ ]: under {share(UNLIKELY)} likely)", style="dim")
    return shown


def print_probes(summary: Summary) -> None:
    """Print every example with its number."""
    heads: Heads = [number("N"), "kind", "state", number("loss"), text("question or text")]
    drawn: Rows = [
        [
            str(probe.number),
            SPLIT_NAMES[probe.split],
            example_state_cell(probe),
            f"{loss_of(probe.loss_first)} → {loss_of(probe.loss_last)}",
            single_line(probe.prompt or probe.expected),
        ]
        for probe in summary.probes
    ]
    cli.print_table(heads, drawn)


def example_state_cell(probe: ProbeSummary) -> Cell:
    since = "" if probe.step is None else f" @{probe.step}"
    return Cell(probe.state + since, STATE_STYLES[probe.state])


def history_table(points: list[PointShown]) -> Table:
    """Return a table of what the model said at each step."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("file then trained", overflow="ellipsis", no_wrap=True, max_width=24)
    table.add_column("loss", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("sure", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("the model's answer", overflow="fold", ratio=1)
    for point in points:
        asked = point.answer is not None
        answer = (point.answer or "") + ("…" if point.is_cut else "")
        style = "green" if point.is_right else ""
        table.add_row(
            str(point.global_step),
            point.name,
            loss_of(point.loss, 3),
            share(point.token_accuracy),
            share(point.confidence),
            "✓" if point.is_right else "",
            Text(answer if asked else "(not asked)", style=style if asked else "dim"),
        )
    return table


def texts(found: ExampleHistory) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if found.prompt:
        table.add_row("Question", Text(found.prompt))
    table.add_row("Expected" if found.prompt else "Text", Text(found.expected))
    return table


def since_words(found: ExampleHistory) -> list[tuple[str, str] | str]:
    """Return the state in its colour, and since when it holds."""
    words: list[tuple[str, str] | str] = [(found.state, STATE_STYLES[found.state])]
    if found.step is not None:
        words.append(f" at step {found.step}")
        if found.during:
            words.append(f", while {found.during} was trained")
    return words


def single_line(text: str) -> str:
    return " ".join(text.split())
