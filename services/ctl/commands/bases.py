"""duramen base: the frozen weights under the adapters."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from services.ctl import cli
from services.ctl.chat_templates import chat_template
from services.ctl.commands import versions
from services.ctl.commands.disk import cost_of_base, no_room_for_base
from services.ctl.commands.lineages import Checked, make_first_lineage
from services.ctl.hub_data import hub_token, transport_errors
from services.ctl.settings import CtlSettings
from services.ctl.troubles import places_of
from services.ctl.views import base_trial
from services.ctl.views.columns import number, size_of, text
from services.ctl.views.stored_bases import base_row, roots
from shared.errors import DiskFull, DuramenError, NotFound, ObjectMissing, UsageError
from shared.files import sha256_bytes, sha256_file
from shared.formats.model_files import INDEX, weights_of
from shared.formats.version import check_base_file, root_hash, sums
from shared.ledger.control import observed_all
from shared.ledger.jobs import Table
from shared.protocol.control import Once
from shared.store import layout
from shared.store.place import PRECIOUS, WORK
from shared.store.s3 import Store

app = typer.Typer(no_args_is_help=True, help="Base models: add, list.")
HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*"]
BASE_WAIT_SECONDS = 3600.0  # tens of gigabytes, three times, read back


@app.command("add")
def add(
    source: Annotated[
        str, typer.Argument(help="A model directory, or a name on the hub such as owner/model.")
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", help="The branch, tag or commit of a hub model.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--chat-template", help="The name or file of a template, if the base has none."
        ),
    ] = None,
    check: Checked = True,
    json: cli.Json = False,
) -> None:
    """Store a base model in three verified copies. The first one becomes the base of `main`.

    The trainer tries it out before `main` is made, as for `duramen lineage new`.
    """
    text = chat_template(template) if template else None
    folder = (
        Path(source)
        if Path(source).is_dir()
        else from_hub(source, revision, hub_token(cli.settings()))
    )
    cli.run_command(_add(folder, text, check=check, json=json))


def from_hub(name: str, revision: str | None, token: str | None) -> Path:
    """Download a model at a pinned commit, text and safetensors only; return its folder.

    Raises NotFound, DuramenError.
    """
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise NotFound(f"{name} is neither a directory here nor a name such as owner/model.")
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise DuramenError(
            "To download from the hub, the package huggingface_hub is needed.",
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
            f"The hub refused {name}: {error}",
            next_step="check the name; if the model has terms, accept them and set HF_TOKEN",
        ) from error
    except transport_errors() as error:
        raise DuramenError(
            f"{name} cannot be downloaded, because the hub cannot be reached: {error}",
            next_step="download the model elsewhere, then: duramen base add DIR",
        ) from error


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a model directory, by the path they will have. Raises UsageError.

    Left out are hidden files, SHA256SUMS, which is made again, and weights that are not read (the
    same ones once more, as `consolidated.safetensors`). Any other file that does not belong to a
    model is refused by name, so that nothing pickled is kept, and no code.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if relative.as_posix() == layout.SUMS:
            continue
        refuse_from_elsewhere(folder, path)
        found[check_base_file(relative.as_posix())] = path
    if "config.json" not in found:
        raise UsageError(f"{folder} contains no config.json, so it is not a model directory.")
    try:
        weights = weights_of(found, found[INDEX].read_bytes() if INDEX in found else None)
    except ValueError as error:
        raise UsageError(f"{folder / INDEX}: {error}") from error
    found = {p: f for p, f in found.items() if p in weights or not p.endswith(".safetensors")}
    if not any(path.endswith(".safetensors") for path in found):
        raise UsageError(
            f"{folder} contains no *.safetensors weights.",
            next_step="convert them (save_pretrained of transformers writes safetensors)",
        )
    return found


def refuse_from_elsewhere(folder: Path, path: Path) -> None:
    """Raise UsageError if a file of a model directory is a link to something outside of it.

    The cache of the hub is an exception: there a model's files are links to its own `blobs`.
    """
    home, real = folder.resolve(), path.resolve()
    within = [home]
    if home.parent.name == "snapshots":
        within.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(each) for each in within):
        name = path.relative_to(folder)
        raise UsageError(
            f"{name} in {folder} is a link to {real}, outside of the model directory.",
            next_step=f"remove {name}, or put a copy of the file in its place",
        )


async def _add(folder: Path, template: str | None, *, check: bool, json: bool) -> None:
    config = cli.settings()
    files = files_of(folder)
    with tempfile.TemporaryDirectory(prefix="duramen-base-") as beside:
        if template is not None:  # it becomes part of the base, and of its root
            files["chat_template.jinja"] = Path(beside) / "chat_template.jinja"
            files["chat_template.jinja"].write_text(template, encoding="utf-8")
        await _keep(config, files, check=check, json=json)


async def _keep(config: CtlSettings, files: dict[str, Path], *, check: bool, json: bool) -> None:
    hashes = {path: sha256_file(file) for path, file in files.items()}
    root = root_hash(hashes.items())
    store = cli.first_store(config)
    if not is_stored(store, root):
        size = sum(file.stat().st_size for file in files.values())
        if not json:
            cli.console.print(cost_of_base(size))
        await refuse_without_room(config, size)
        upload(store, root, files, hashes, quiet=json)
    command = Once(by=cli.who(), service="vault", command="base", base_root=root)
    async with cli.bus(config) as bus:
        wait = max(config.wait_seconds, BASE_WAIT_SECONDS)
        answer = await versions.ask_vault(bus, command, wait)
        made = await make_first_lineage(config, bus, root, check=check)
    stored = answer.receipt.model_dump() if answer.receipt else {}
    value = {"base_root": root, **stored, "lineage_created": made[0] if made else None}
    if made:
        value["base_check"] = base_trial.as_json(made[2])

    def tell() -> None:
        cli.console.print(answer.why[:1].upper() + answer.why[1:] + ".")
        if made:
            for line in base_trial.trial_lines(made[2], made[1]):
                cli.console.print(line)
            cli.console.print(f"Lineage {made[0]} was created on it.")

    cli.emit(value, json, tell)


async def refuse_without_room(config: CtlSettings, size: int) -> None:
    """Raise DiskFull, before anything is stored, if a place is known to have no room for a base."""
    async with cli.bus(config) as bus:
        seen = {name: await observed_all(bus, name) for name in ("vault", "trainer")}
    if lacking := no_room_for_base(places_of(seen), size):
        raise DiskFull(f"{'; '.join(lacking)}.", next_step="duramen disk")


def is_stored(store: Store, root: str) -> bool:
    try:
        return sha256_bytes(store.read(PRECIOUS, layout.base_commit(root))) == root
    except ObjectMissing:
        return False


def upload(
    store: Store, root: str, files: dict[str, Path], hashes: dict[str, str], *, quiet: bool
) -> None:
    """Upload a base into staging, from where the vault takes it; SHA256SUMS is last."""
    for path, file in files.items():
        if not quiet:
            cli.console.print(f"uploading {path} ({size_of(file.stat().st_size)})")
        store.put_file(WORK, layout.staged_base_file(root, path), file, hashes[path])
    store.put_bytes(WORK, layout.staged_base_file(root, layout.SUMS), sums(hashes.items()))


@app.command("list")
def list_bases(json: cli.Json = False) -> None:
    """List the stored base models and the lineages on each."""
    cli.run_command(_list_bases(json))


async def _list_bases(json: bool) -> None:
    config = cli.settings()
    store = cli.first_store(config)
    async with cli.bus(config) as bus:
        table = await Table.of(bus)
    rows = [base_row(store, root, table) for root in roots(store)]

    def human() -> None:
        if not rows:
            cli.console.print("No base model is stored yet.  Next: duramen base add DIR")
            return
        drawn = [
            [r["base_root"][:12], str(r["files"]), ", ".join(r["lineages"]), r["model"]]
            for r in rows
        ]
        cli.print_table(["base", number("files"), "lineages", text("model")], drawn)

    cli.emit(rows, json, human)
