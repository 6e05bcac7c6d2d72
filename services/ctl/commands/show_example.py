"""duramen show-example: a row as the model sees it, token by token, and what of it is trained."""

from typing import TYPE_CHECKING, Annotated

import typer

from services.ctl import cli
from services.ctl.views.columns import count_of
from services.ctl.views.tokens import drawn
from shared.answers.trainer import RowShown
from shared.errors import NotFound, UsageError
from shared.store import layout

if TYPE_CHECKING:
    from shared.store.s3 import Store


def show_example(
    dataset: Annotated[str, typer.Argument(help="A job or dataset, or the start of its id.")],
    number: Annotated[
        int, typer.Argument(min=1, help="The number of the row in the stored dataset, from 1.")
    ],
    lineage: cli.Lineage = "main",
    json: cli.Json = False,
) -> None:
    """Show a row as tokens: what the model reads, and in green what it is trained to write."""
    config = cli.settings()
    sha256 = find_dataset(cli.first_store(config), dataset)
    path = f"/api/example/{lineage}/{sha256}/{number}"
    wait = max(config.wait_seconds, 90.0)
    found = cli.ask(RowShown, config.trainer_url, config.trainer_token, path, seconds=wait)
    cli.emit(found, json, lambda: print_tokens(found))
    if found.failed:
        raise typer.Exit(1)


def find_dataset(store: "Store", shown: str) -> str:
    """Return the one stored dataset that a job, or the start of an id, names.

    Raises NotFound, UsageError.
    """
    prefix = shown.split("/")[1] if shown.count("/") == 2 else shown.partition(".")[0]
    if not prefix or set(prefix) - set("0123456789abcdef"):
        raise UsageError(f"{shown!r} is not the id of a dataset.", next_step="duramen queue list")
    files = map(layout.parse_dataset_file, store.keys("duramen", layout.datasets(prefix)))
    found = sorted({file.dataset for file in files if file})
    if not found:
        raise NotFound(
            f"No dataset has an id that begins with {prefix}.", next_step="duramen queue list"
        )
    if len(found) > 1:
        raise UsageError(f"{len(found)} datasets begin with {prefix}; use a longer prefix.")
    return found[0]


def print_tokens(found: RowShown) -> None:
    if found.failed:
        cli.console.print(found.failed.message, style="red")
        if found.failed.example:
            cli.console.print(found.failed.example)
        return
    where = f"row {found.row} of {found.dataset[:12]}"
    if found.left_out:
        cli.console.print(f"{where} is left out of training: {found.left_out}")
        return
    sequences = found.sequences
    if len(sequences) > 1:
        cli.console.print(
            f"{where} becomes {len(sequences)} sequences: the chat template shows an answer "
            "differently once another turn follows, and each is trained as it is first given."
        )
    for tokens in sequences:
        trained = sum(t.trained for t in tokens)
        shown = f"{where}: {count_of(len(tokens), 'token')}, {trained} trained"
        cli.console.print(shown, style="bold")
        cli.console.print(drawn(tokens, colours=cli.has_colours()))
