"""duramen lineage: adapters that every job trains further, each on one base."""

import asyncio
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from services.ctl import cli
from services.ctl.chat_templates import chat_template, for_a_record
from services.ctl.settings import CtlSettings
from services.ctl.views import base_trial
from services.ctl.views.columns import Heads, number
from services.ctl.views.shown_lineage import lines_of_lineage, shown_lineage
from services.ctl.views.stored_bases import find_root
from shared.answers.trainer import BaseTried
from shared.bus.client import Bus
from shared.errors import DuramenError, NotFound, UsageError
from shared.formats.base_layers import EMBEDDINGS, HEADS, BaseLayers
from shared.formats.version import version_name
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.protocol.largest import LARGEST_ALPHA, LARGEST_RANK
from shared.protocol.records import LineageSettings, LineCreate
from shared.store.base_shape import layers_in_store
from shared.wrong_value import why_wrong

app = typer.Typer(no_args_is_help=True, help="Lineages: new, list, show.")
Name = Annotated[
    str, typer.Argument(help="Up to 32 of a-z, 0-9, - and _. It begins with a letter or digit.")
]
Rank = Annotated[int, typer.Option("--rank", min=1, max=LARGEST_RANK, help="Rank of the adapter.")]
Alpha = Annotated[
    int, typer.Option("--alpha", min=1, max=LARGEST_ALPHA, help="Scale of the adapter.")
]
Targets = Annotated[
    str, typer.Option("--targets", help="The layers that get an adapter, such as q_proj,v_proj.")
]
Dropout = Annotated[
    float, typer.Option("--dropout", min=0, max=0.99, help="Dropout of the adapter.")
]
Quantized = Annotated[
    str, typer.Option("--quantize", help="none, or nf4 for a quarter of the memory.")
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of its random numbers.")
]
Template = Annotated[
    str | None,
    typer.Option("--chat-template", help="A template's name or file, instead of the base's own."),
]


NOT_ASKED: BaseTried | str = "--no-check was given"
Checked = Annotated[
    bool, typer.Option("--check/--no-check", help="Have the trainer try the base out first.")
]


async def create(bus: Bus, table: Table, name: str, settings: LineageSettings) -> None:
    """Write the first record of a lineage. Raises UsageError if it exists, Conflict."""
    line = table.lines.get(name)
    if line is not None and line.settings is not None:
        raise UsageError(f"Lineage {name} already exists.", next_step="duramen lineage list")
    line = line or Line(name)
    record = LineCreate(by=cli.who(), prev=line.sequence, lineage=name, settings=settings)
    await line.append(bus, "create", record)
    await table.update(bus)


Tried = BaseTried | str


async def make_first_lineage(
    config: CtlSettings, bus: Bus, root: str, *, check: bool
) -> tuple[str, LineageSettings, Tried] | None:
    """Create `main` on this base if there is none yet, and the base passes its trial.

    Returns its name, its settings and what was found; None if there is one. Raises UsageError if
    the base cannot be trained.
    """
    table = await Table.of(bus)
    line = table.lines.get("main")
    if line is not None and line.settings is not None:
        return None
    settings, found = LineageSettings(base_root=root), NOT_ASKED
    try:
        found = await asyncio.to_thread(base_trial.try_base, config, settings) if check else found
    except UsageError as error:
        message = f"The base is stored, but the lineage main was not made on it: {error}"
        raise UsageError(message, next_step=error.next_step) from error
    await create(bus, table, "main", settings)
    return "main", settings, found


def named(targets: str) -> str | list[str]:
    """Return `all-linear`, or a list of the names between commas."""
    return targets if targets == "all-linear" else [t.strip() for t in targets.split(",")]


def check_targets(targets: list[str], layers: BaseLayers) -> None:
    """Refuse targets that the base does not have, or that share their matrix.

    Raises UsageError.
    """
    again = "duramen lineage new NAME --base BASE --targets " + ",".join(layers.ends())
    unknown = [target for target in targets if not layers.has(target)]
    if unknown:
        near = sorted({name for target in unknown for name in layers.nearest(target)})
        like = f" The nearest names are {', '.join(near)}." if near else ""
        raise UsageError(
            f"This base has no layer {', '.join(map(repr, unknown))} that can have an adapter."
            + like,
            next_step=again,
        )
    shared = [t for t in targets if t.rpartition(".")[2] in HEADS + EMBEDDINGS]
    if layers.is_tied and shared:
        raise UsageError(
            f"{', '.join(shared)} cannot have an adapter: this base ({layers.model_type}) has one "
            "matrix as its embedding and its head, and an adapter would change only one of them.",
            next_step=again,
        )


@app.command("new")
def new(
    name: Name,
    base: Annotated[str, typer.Option("--base", help="A base as shown by `duramen base list`.")],
    *,
    rank: Rank = 16,
    alpha: Alpha = 32,
    targets: Targets = "all-linear",
    dropout: Dropout = 0.0,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")] = "auto",
    quantize: Quantized = "none",
    seed: Seed = 0,
    template: Template = None,
    check: Checked = True,
    json: cli.Json = False,
) -> None:
    """Create a lineage. Its base, shape, number format and template cannot be changed later.

    The trainer tries the base out first, and says which layers get an adapter.
    """
    text = for_a_record(chat_template(template)) if template else None
    config = cli.settings()
    store = cli.first_store(config)
    root = find_root(store, base)
    lora = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": named(targets)}
    shape = {"dtype": dtype, "quantize": quantize, "seed": seed, "chat_template": text}
    settings = checked_settings(name, {"base_root": root, "lora": lora, **shape})
    if settings.lora.targets != "all-linear":
        check_targets(settings.lora.targets, layers_in_store(store, root))
    found = base_trial.try_base(config, settings) if check else NOT_ASKED
    cli.run_command(_new(config, name, settings, found, json))


def checked_settings(name: str, fields: dict[str, Any]) -> LineageSettings:
    """Return the settings of a new lineage. Raises UsageError, naming the flags that are wrong."""
    try:
        settings = LineageSettings.model_validate(fields)
        LineCreate(by=cli.who(), lineage=name, settings=settings)
    except ValidationError as error:
        raise UsageError(f"The lineage cannot be created: {flags_wrong(error)}.") from error
    return settings


def flags_wrong(error: ValidationError) -> str:
    """Return why a lineage cannot be created as asked for, with the flags that are wrong."""
    fields = [(str(each["loc"][-1]), why_wrong(each)) for each in error.errors()]
    return "; ".join(
        f"{'NAME' if field == 'lineage' else '--' + field}: {why}" for field, why in fields
    )


async def _new(
    config: CtlSettings,
    name: str,
    settings: LineageSettings,
    found: BaseTried | str,
    json: bool,
) -> None:
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
        await create(bus, table, name, settings)
    value = {"lineage": name, **settings.model_dump(mode="json")}
    value["base_check"] = base_trial.as_json(found)

    def human() -> None:
        for line in base_trial.trial_lines(found, settings):
            cli.console.print(line)
        cli.console.print(f"Lineage {name} was created on base {settings.base_root[:12]}.")

    cli.emit(value, json, human)


@app.command("list")
def list_lineages(json: cli.Json = False) -> None:
    """List all lineages with their base, shape, steps and newest version."""
    cli.run_command(_list_lineages(json))


async def _list_lineages(json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
    lines = [line for line in table.lines.values() if line.settings and line.head]
    spared = spared_layers(config, [line.settings for line in lines if line.settings])
    rows = [lineage_row(line, spared) for line in lines]

    def human() -> None:
        heads: Heads = ["lineage", "base", "lora", "dtype", number("steps"), "latest"]
        cli.print_table(heads, [cells(row) for row in rows])
        for row in rows:
            for kind in row["left_out"] or ():
                without = f"{row['lineage']}: no adapter on {', '.join(kind['names'])}"
                cli.console.print(f"{without} ({kind['why']})", style="dim")

    cli.emit(rows, json, human)


def lineage_row(line: Line, spared: dict[str, list[dict[str, Any]] | None]) -> dict[str, Any]:
    """Return a lineage as programs see it; `spared`: what its base leaves out, by the root."""
    assert line.settings is not None
    assert line.head is not None
    named = line.settings.lora.targets != "all-linear"
    return {
        "lineage": line.lineage,
        **line.settings.model_dump(mode="json"),
        "dtype": line.dtype or line.settings.dtype,
        "global_step": line.head.global_step,
        "latest": line.latest,
        "versions": sorted(line.versions),
        "left_out": [] if named else spared[line.settings.base_root],
    }


def cells(row: dict[str, Any]) -> list[str]:
    return [
        row["lineage"],
        row["base_root"][:12],
        f"rank {row['lora']['rank']}, alpha {row['lora']['alpha']}",
        row["dtype"] + ("" if row["quantize"] == "none" else f", {row['quantize']}"),
        str(row["global_step"]),
        version_name(row["latest"]) if row["latest"] else "-",
    ]


def spared_layers(
    config: CtlSettings, lineages: list[LineageSettings]
) -> dict[str, list[dict[str, Any]] | None]:
    """Return the layers that all-linear leaves out, by base; None where its files cannot be read.

    A lineage that began before they were left out still trains them.
    """
    roots = {settings.base_root for settings in lineages if settings.lora.targets == "all-linear"}
    found: dict[str, list[dict[str, Any]] | None] = {}
    for root in roots:
        try:
            kinds = layers_in_store(cli.first_store(config), root).left_out
        except (DuramenError, ValueError):
            found[root] = None
            continue
        found[root] = [{"names": list(kind.names), "why": kind.why} for kind in kinds]
    return found


@app.command("show")
def show_lineage(name: Name, json: cli.Json = False) -> None:
    """Show a lineage: base, adapter, template, head, versions, and what the base's trial found."""
    cli.run_command(_show(name, json))


async def _show(name: str, json: bool) -> None:
    config = cli.settings()
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
    line = table.lines.get(name)
    if line is None or line.settings is None or line.head is None:
        raise NotFound(f"There is no lineage {name!r}.", next_step="duramen lineage list")
    found = await asyncio.to_thread(base_trial.trial_before, config, line.settings)
    value = shown_lineage(config, line, lineage_row(line, spared_layers(config, [line.settings])))
    value["base_check"] = base_trial.as_json(found)
    told = lines_of_lineage(value, base_trial.trial_lines(found, line.settings))
    cli.emit(value, json, lambda: cli.console.print("\n".join(told)))
