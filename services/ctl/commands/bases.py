"""duramen base, duramen lineage: the frozen weights under an adapter, and the lines on them."""

import tempfile
from json import loads
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from pydantic import ValidationError

from services.ctl import cli
from services.ctl.chat_templates import chat_template, for_a_record
from services.ctl.commands import versions
from services.ctl.settings import CtlSettings
from services.ctl.views.columns import Heads, number, size_of, text
from shared.bus.client import Bus
from shared.errors import DuramenError, NotFound, ObjectMissing, UsageError
from shared.files import sha256_bytes, sha256_file
from shared.formats.model_files import INDEX, weights_of
from shared.formats.version import check_base_file, parse_sums, root_hash, sums, version_name
from shared.ledger.jobs import Table
from shared.ledger.lineage import Line
from shared.memory_estimate import HEADS, Shape
from shared.protocol.control import Once
from shared.protocol.records import LineageSettings, LineCreate, Lora
from shared.store import layout
from shared.store.base_shape import shape_in_store
from shared.store.place import PRECIOUS, WORK
from shared.store.s3 import Store

app = typer.Typer(no_args_is_help=True, help="Base models: add, list.")
lineage_app = typer.Typer(no_args_is_help=True, help="Lines of training: new, list.")
HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*"]
BASE_WAIT_SECONDS = 3600.0  # tens of gigabytes, three times, read back


# ---- base ----------------------------------------------------------------------------------------


@app.command("add")
def add(
    source: Annotated[str, typer.Argument(help="A model directory, or a name on the hub.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Of a hub model: branch, tag or commit.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--chat-template", help="A name or file, for a base without a template."),
    ] = None,
    json: cli.Json = False,
) -> None:
    """Keep a base model, in three verified copies; the first one becomes lineage `main`'s."""
    text = chat_template(template) if template else None
    folder = Path(source) if Path(source).is_dir() else from_hub(source, revision, hub_token())
    cli.run(_add(folder, text, json))


def hub_token() -> str | None:
    """From the file that the settings name; None leaves it to the hub's library."""
    path = cli.settings().hub_token_file
    return (path.read_text().strip() or None) if path and path.is_file() else None


def from_hub(name: str, revision: str | None, token: str | None) -> Path:
    """Download a model at a pinned commit, text and safetensors only. Raises DuramenError."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise NotFound(f"{name} is neither a directory here nor a name such as owner/model.")
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise DuramenError(
            "Fetching from the hub needs the package huggingface_hub.",
            next_step="pip install huggingface_hub, or download it, then: duramen base add DIR",
        ) from error
    try:
        commit = HfApi(token=token).model_info(name, revision=revision).sha
        cli.console.print(f"{name} at commit {commit}", style="dim")
        return Path(
            snapshot_download(name, revision=commit, allow_patterns=HUB_PATTERNS, token=token)
        )
    except HfHubHTTPError as error:
        raise DuramenError(
            f"The hub refuses {name}: {error}",
            next_step="accept its terms on its page, export HF_TOKEN (containers: .env), try again",
        ) from error
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise DuramenError(
            f"The hub cannot be reached for {name}: {error}",
            next_step="download the model elsewhere, then: duramen base add DIR",
        ) from error


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a model directory, by the path they will have. Raises UsageError.

    Hidden files, SHA256SUMS, which is made anew, and weights that are not read (the same ones once
    more, as `consolidated.safetensors`) are left out; anything else that is no part of a model is
    refused by name: nothing pickled is kept, and no code.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if relative.as_posix() == layout.SUMS:
            continue
        found[check_base_file(relative.as_posix())] = path
    if "config.json" not in found:
        raise UsageError(f"{folder} holds no config.json: this is no model directory.")
    try:
        weights = weights_of(found, found[INDEX].read_bytes() if INDEX in found else None)
    except ValueError as error:
        raise UsageError(f"{folder / INDEX}: {error}") from error
    found = {p: f for p, f in found.items() if p in weights or not p.endswith(".safetensors")}
    if not any(path.endswith(".safetensors") for path in found):
        raise UsageError(
            f"{folder} holds no weights as safetensors.",
            next_step="convert them (save_pretrained of transformers writes safetensors)",
        )
    return found


async def _add(folder: Path, template: str | None, json: bool) -> None:
    config = cli.settings()
    files = files_of(folder)
    with tempfile.TemporaryDirectory(prefix="duramen-base-") as beside:
        if template is not None:  # it becomes part of the base, and of its root
            files["chat_template.jinja"] = Path(beside) / "chat_template.jinja"
            files["chat_template.jinja"].write_text(template, encoding="utf-8")
        await _keep(config, files, json)


async def _keep(config: CtlSettings, files: dict[str, Path], json: bool) -> None:
    hashes = {path: sha256_file(file) for path, file in files.items()}
    root = root_hash(hashes.items())
    store = cli.store(config)
    if not is_stored(store, root):
        upload(store, root, files, hashes, quiet=json)
    command = Once(by=cli.who(), service="vault", command="base", base_root=root)
    async with cli.bus(config) as bus:
        wait = max(config.wait_seconds, BASE_WAIT_SECONDS)
        answer = await versions.ask_vault(bus, command, wait)
        made = await make_first_lineage(bus, root)
    stored = answer.receipt.model_dump() if answer.receipt else {}
    value = {"base_root": root, **stored, "lineage_created": made}

    def tell() -> None:
        cli.console.print(f"base {root[:12]}: {answer.why}")
        if made:
            cli.console.print(f"lineage {made} is made on it")

    cli.emit(value, json, tell)


def is_stored(store: Store, root: str) -> bool:
    try:
        return sha256_bytes(store.read(PRECIOUS, layout.base_commit(root))) == root
    except ObjectMissing:
        return False


def upload(
    store: Store, root: str, files: dict[str, Path], hashes: dict[str, str], *, quiet: bool
) -> None:
    """Into staging, from where the vault takes it; SHA256SUMS last."""
    for path, file in files.items():
        if not quiet:
            cli.console.print(f"uploading {path} ({size_of(file.stat().st_size)})")
        store.put_file(WORK, layout.staged_base_file(root, path), file, hashes[path])
    store.put_bytes(WORK, layout.staged_base_file(root, layout.SUMS), sums(hashes.items()))


@app.command("list")
def list_bases(json: cli.Json = False) -> None:
    """The bases that are stored, and the lineages on them."""
    cli.run(_list_bases(json))


async def _list_bases(json: bool) -> None:
    config = cli.settings()
    store = cli.store(config)
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
    rows = [base_row(store, root, table) for root in roots(store)]

    def human() -> None:
        if not rows:
            cli.console.print("There is no base yet.  Next: duramen base add DIR")
            return
        drawn = [
            [r["base_root"][:12], str(r["files"]), ", ".join(r["lineages"]), r["model"]]
            for r in rows
        ]
        cli.table(["base", number("files"), "lineages", text("model")], drawn)

    cli.emit(rows, json, human)


def roots(store: Store) -> list[str]:
    """Roots of all committed bases."""
    found = map(layout.parse_base_commit, store.keys(PRECIOUS, layout.BASES))
    return [root for root in found if root is not None]


def base_row(store: Store, root: str, table: Table) -> dict[str, Any]:
    files = parse_sums(store.read(PRECIOUS, layout.base_commit(root), sha256=root))
    on_it = [n for n, line in table.lines.items() if line.head and line.head.base_root == root]
    return {
        "base_root": root,
        "model": model_name(store, root, files.get("config.json")),
        "files": len(files),
        "lineages": on_it,
    }


def model_name(store: Store, root: str, sha256: str | None) -> str:
    """Type and size as config.json says them: `llama, 30 layers of 576`."""
    try:
        found = loads(store.read(PRECIOUS, layout.base_file(root, "config.json"), sha256=sha256))
    except (DuramenError, ValueError):
        return "?"
    layers, width = found.get("num_hidden_layers"), found.get("hidden_size")
    return f"{found.get('model_type', '?')}, {layers} layers of {width}"


# ---- lineage -------------------------------------------------------------------------------------


async def create(bus: Bus, table: Table, name: str, settings: LineageSettings) -> None:
    """Write the first record of a lineage. Raises UsageError if it exists, Conflict."""
    line = table.lines.get(name)
    if line is not None and line.settings is not None:
        raise UsageError(f"Lineage {name} exists already.", next_step="duramen lineage list")
    line = line or Line(name)
    record = LineCreate(by=cli.who(), prev=line.sequence, lineage=name, settings=settings)
    await line.append(bus, "create", record)
    await table.update(bus)


async def make_first_lineage(bus: Bus, root: str) -> str | None:
    """`main` on this base, if there is none yet."""
    table = await Table.of(bus)
    line = table.lines.get("main")
    if line is not None and line.settings is not None:
        return None
    await create(bus, table, "main", LineageSettings(base_root=root))
    return "main"


def named(targets: str) -> str | list[str]:
    """`all-linear`, or the names between commas."""
    return targets if targets == "all-linear" else [t.strip() for t in targets.split(",")]


def check_targets(targets: list[str], shape: Shape) -> None:
    """Raises UsageError for names that the base has not: it would be trained without them."""
    known = {linear.name.rpartition(".")[2] for linear in shape.linears}
    unknown = [
        target
        for target in targets
        if target not in HEADS and not any(m.is_named(target) for m in shape.linears)
    ]
    if unknown:
        raise UsageError(
            f"This base has no layer {', '.join(map(repr, unknown))} that could get an adapter.",
            next_step="duramen lineage new NAME --base BASE --targets with some of "
            + ",".join(sorted(known)),
        )


@lineage_app.command("new")
def new(
    name: Annotated[
        str, typer.Argument(help="Up to 32 of a-z, 0-9, - and _, a letter or digit first.")
    ],
    base: Annotated[str, typer.Option("--base", help="A base as shown by `duramen base list`.")],
    *,
    rank: Annotated[int, typer.Option("--rank", min=1)] = 16,
    alpha: Annotated[int, typer.Option("--alpha", min=1)] = 32,
    targets: Annotated[
        str, typer.Option("--targets", help="Layers that get an adapter: q_proj,v_proj, …")
    ] = "all-linear",
    dropout: Annotated[float, typer.Option("--dropout", min=0, max=0.99)] = 0.0,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16.")] = "auto",
    quantize: Annotated[
        str, typer.Option("--quantize", help="none, or nf4: a quarter of the weights' memory.")
    ] = "none",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1)] = 0,
    template: Annotated[
        str | None,
        typer.Option("--chat-template", help="A name or file, instead of the base's own."),
    ] = None,
    json: cli.Json = False,
) -> None:
    """Make a lineage; base, shape, dtype and chat template are fixed from now on."""
    text = for_a_record(chat_template(template)) if template else None
    config = cli.settings()
    store = cli.store(config)
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
        wrong = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
        raise UsageError(f"That is no lineage: {wrong}.") from error
    if settings.lora.targets != "all-linear":
        check_targets(settings.lora.targets, shape_in_store(store, root))
    cli.run(_new(config, name, settings, json))


async def _new(config: CtlSettings, name: str, settings: LineageSettings, json: bool) -> None:
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
        await create(bus, table, name, settings)
    value = {"lineage": name, **settings.model_dump(mode="json")}
    cli.emit(value, json, lambda: cli.console.print(f"lineage {name} on {settings.base_root[:12]}"))


def find_root(store: Store, shown: str) -> str:
    """The one base whose root begins so. Raises NotFound."""
    found = [root for root in roots(store) if shown and root.startswith(shown)]
    if len(found) != 1:
        how = "no base" if not found else f"{len(found)} bases"
        raise NotFound(f"{how} named {shown!r}.", next_step="duramen base list")
    return found[0]


@lineage_app.command("list")
def list_lineages(json: cli.Json = False) -> None:
    """All lineages: base, shape, steps, newest version."""
    cli.run(_list_lineages(json))


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
        cli.table(heads, drawn)

    cli.emit(rows, json, human)
