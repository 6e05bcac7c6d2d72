"""duramen show-example: a row as the model sees it, token by token, and what of it is trained."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.ctl import cli
from shared.errors import NotFound, UsageError
from shared.store import layout

if TYPE_CHECKING:
    from rich.text import Text

    from shared.store.s3 import Store

# Tokens that follow each other alternate between two tones, so that the cuts can be seen.
TONES = {True: ("black on green", "black on bright_green"), False: ("default", "dim")}


def show_example(
    dataset: Annotated[str, typer.Argument(help="A dataset or job, by the start of its hash.")],
    number: Annotated[int, typer.Argument(min=1, help="The row, from 1, as it is stored.")],
    lineage: cli.Lineage = "main",
    json: cli.Json = False,
) -> None:
    """One row as tokens: what the model reads, and which of it is trained (in green)."""
    config = cli.settings()
    sha256 = find_dataset(cli.store(config), dataset)
    path = f"/api/example/{lineage}/{sha256}/{number}"
    found: dict[str, Any] = cli.ask(
        config.trainer_url, config.trainer_token, path, seconds=max(config.wait_seconds, 90.0)
    )
    cli.emit(found, json, lambda: show(found))
    if "failed" in found:
        raise typer.Exit(1)


def find_dataset(store: "Store", shown: str) -> str:
    """The one stored dataset whose hash begins so. Raises NotFound, UsageError."""
    prefix = shown.split("/")[1] if shown.count("/") == 2 else shown.partition(".")[0]
    if not prefix or set(prefix) - set("0123456789abcdef"):
        raise UsageError(f"{shown!r} is no dataset's hash.", next_step="duramen queue list")
    files = map(layout.parse_dataset_file, store.keys("duramen", layout.datasets(prefix)))
    found = sorted({file.dataset for file in files if file})
    if not found:
        raise NotFound(f"No dataset begins with {prefix}.", next_step="duramen queue list")
    if len(found) > 1:
        raise UsageError(f"{len(found)} datasets begin with {prefix}; say more of it.")
    return found[0]


def show(found: dict[str, Any]) -> None:
    if "failed" in found:
        cli.console.print(found["failed"]["message"], style="red", markup=False)
        if found["failed"]["example"]:
            cli.console.print(found["failed"]["example"], markup=False)
        return
    where = f"row {found['row']} of {found['dataset'][:12]}"
    if found["left_out"]:
        cli.console.print(f"{where} is not trained: {found['left_out']}", markup=False)
        return
    sequences = found["sequences"]
    if len(sequences) > 1:
        cli.console.print(
            f"{where} is {len(sequences)} sequences: the chat template shows an answer differently "
            "once the talk goes on, and each is trained as the model first gives it."
        )
    for tokens in sequences:
        trained = sum(t["trained"] for t in tokens)
        cli.console.print(f"{where}: {len(tokens)} tokens, {trained} trained", style="bold")
        cli.console.print(drawn(tokens, colours=cli.console.is_terminal))


def drawn(tokens: list[dict[str, Any]], *, colours: bool) -> "Text":
    """Each token in a tone of its own; without colours, cut by · and trained ones in ⟦ ⟧."""
    from rich.text import Text

    text, before = Text(), False
    for n, token in enumerate(tokens):
        words, trained = token["text"], token["trained"]
        if colours:
            text.append(words.replace("\n", "⏎\n"), style=TONES[trained][n % 2])
            continue
        edge = ("⟦" if trained else "⟧") if trained != before else ("·" if n else "")
        text.append(edge + words.replace("\n", "⏎\n"))
        before = trained
    return text.append("" if colours or not before else "⟧")
