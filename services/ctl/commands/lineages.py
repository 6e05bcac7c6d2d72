"""duramen lineage: adapters that every job trains further, each on one base."""

from typing import Annotated

import typer
from pydantic import ValidationError

from services.ctl import cli
from services.ctl.chat_templates import chat_template, for_a_record
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import Heads, number
from services.ctl.views.stored_bases import find_root
from shared.bus.client import Bus
from shared.errors import UsageError
from shared.formats.version import version_name
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.memory_estimate import HEADS, Shape
from shared.protocol.records import LineageSettings, LineCreate, Lora
from shared.store.base_shape import shape_in_store
from shared.wrong_value import why_wrong

app = typer.Typer(no_args_is_help=True, help="Lineages: new, list.")
Name = Annotated[
    str, typer.Argument(help="Up to 32 of a-z, 0-9, - and _. It begins with a letter or digit.")
]
Rank = Annotated[int, typer.Option("--rank", min=1, help="Rank of the adapter.")]
Alpha = Annotated[int, typer.Option("--alpha", min=1, help="Scale of the adapter.")]
Targets = Annotated[
    str, typer.Option("--targets", help="The layers that get an adapter, such as q_proj,v_proj.")
]
Dropout = Annotated[
    float, typer.Option("--dropout", min=0, max=0.99, help="Dropout of the adapter.")
]
Quantize = Annotated[
    str, typer.Option("--quantize", help="none, or nf4 for a quarter of the memory.")
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of its random numbers.")
]
Template = Annotated[
    str | None,
    typer.Option("--chat-template", help="A template's name or file, instead of the base's own."),
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


async def make_first_lineage(bus: Bus, root: str) -> str | None:
    """Create `main` on this base if there is none yet; return its name, else None."""
    table = await Table.of(bus)
    line = table.lines.get("main")
    if line is not None and line.settings is not None:
        return None
    await create(bus, table, "main", LineageSettings(base_root=root))
    return "main"


def named(targets: str) -> str | list[str]:
    """Return `all-linear`, or a list of the names between commas."""
    return targets if targets == "all-linear" else [t.strip() for t in targets.split(",")]


def check_targets(targets: list[str], shape: Shape) -> None:
    """Refuse names that the base does not have: it would be trained without them.

    Raises UsageError.
    """
    known = {linear.name.rpartition(".")[2] for linear in shape.linears}
    unknown = [
        target
        for target in targets
        if target not in HEADS and not any(m.is_named(target) for m in shape.linears)
    ]
    if unknown:
        raise UsageError(
            f"This base has no layer {', '.join(map(repr, unknown))} that can have an adapter.",
            next_step="duramen lineage new NAME --base BASE --targets " + ",".join(sorted(known)),
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
    quantize: Quantize = "none",
    seed: Seed = 0,
    template: Template = None,
    json: cli.Json = False,
) -> None:
    """Create a lineage. Its base, shape, number format and template cannot be changed later."""
    text = for_a_record(chat_template(template)) if template else None
    config = cli.settings()
    store = cli.first_store(config)
    root = find_root(store, base)
    try:
        settings = LineageSettings(
            base_root=root,
            lora=Lora(rank=rank, alpha=alpha, dropout=dropout, targets=named(targets)),
            dtype=dtype,
            quantize=quantize,
            seed=seed,
            chat_template=text,
        )
        LineCreate(by=cli.who(), lineage=name, settings=settings)
    except ValidationError as error:
        raise UsageError(f"The lineage cannot be created: {flags_wrong(error)}.") from error
    if settings.lora.targets != "all-linear":
        check_targets(settings.lora.targets, shape_in_store(store, root))
    cli.run_command(_new(config, name, settings, json))


def flags_wrong(error: ValidationError) -> str:
    """Return why a lineage cannot be created as asked for, with the flags that are wrong."""
    fields = [(str(each["loc"][-1]), why_wrong(each)) for each in error.errors()]
    return "; ".join(
        f"{'NAME' if field == 'lineage' else '--' + field}: {why}" for field, why in fields
    )


async def _new(config: CtlSettings, name: str, settings: LineageSettings, json: bool) -> None:
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
        await create(bus, table, name, settings)
    value = {"lineage": name, **settings.model_dump(mode="json")}
    cli.emit(
        value,
        json,
        lambda: cli.console.print(f"Lineage {name} was created on base {settings.base_root[:12]}."),
    )


@app.command("list")
def list_lineages(json: cli.Json = False) -> None:
    """List all lineages with their base, shape, steps and newest version."""
    cli.run_command(_list_lineages(json))


async def _list_lineages(json: bool) -> None:
    async with cli.bus(cli.settings()) as bus:
        table = await Table.of(bus)
    rows = [
        {
            "lineage": name,
            **line.settings.model_dump(mode="json"),
            "dtype": line.dtype or line.settings.dtype,
            "global_step": line.head.global_step,
            "latest": line.latest,
            "versions": sorted(line.versions),
        }
        for name, line in table.lines.items()
        if line.settings and line.head
    ]

    def human() -> None:
        heads: Heads = ["lineage", "base", "lora", "dtype", number("steps"), "latest"]
        drawn = [
            [
                row["lineage"],
                row["base_root"][:12],
                f"rank {row['lora']['rank']}, alpha {row['lora']['alpha']}",
                row["dtype"],
                str(row["global_step"]),
                version_name(row["latest"]) if row["latest"] else "-",
            ]
            for row in rows
        ]
        cli.print_table(heads, drawn)

    cli.emit(rows, json, human)
