"""Answers `show-example` and previews: how the model sees rows, found by a child process."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.run.worker_process import environment
from services.trainer.supervisor.trainer import Trainer
from shared.answers.trainer import RowShown, RowsPreviewed, RowsToPreview
from shared.errors import DuramenError, NotFound
from shared.formats.version import parse_sums
from shared.protocol.message import ObjectRef
from shared.protocol.names import now
from shared.protocol.records import JobSettings, LineageSettings
from shared.store import layout
from shared.store.place import PRECIOUS

EXAMPLE_SECONDS = 60.0
PREVIEW_SECONDS, COUNT_SECONDS = 40.0, 15.0
PREVIEWING = asyncio.Lock()  # a preview takes as much memory as it is allowed


async def example_shown(trainer: Trainer, lineage: str, dataset: str, row: int) -> RowShown:
    """Return the tokens of a row (from 1), and which of them are trained.

    Raises NotFound, DuramenError.
    """
    settings = settings_of(trainer, lineage)
    jobs = [j for j in trainer.table.jobs.values() if j.id.sha256 == dataset]
    mine = [j for j in jobs if j.id.lineage == lineage]
    newest = max(mine, key=lambda j: j.id.run, default=None)
    queued_at = newest.record.queued_at if newest else now()
    own = newest.record.settings if newest else JobSettings()
    request = {
        "clock": queued_at.isoformat(),
        "dataset_sha256": dataset,
        "row": row,
        "max_length": own.max_length or trainer.settings.max_length,
        "on_long": own.on_long or trainer.settings.on_long,
        "chat_template": settings.chat_template,
    }
    files = await asyncio.to_thread(fetch, trainer.local, settings, dataset)
    found = await ask_child("example", request | files, trainer.settings.threads, EXAMPLE_SECONDS)
    return RowShown.model_validate({"lineage": lineage, "dataset": dataset, "row": row, **found})


def fetch(local: Local, settings: LineageSettings, dataset: str) -> dict[str, str]:
    """Fetch the dataset and all files of the base but its weights; return their paths.

    Raises ObjectMissing, ObjectDamaged.
    """
    key = layout.dataset_data(dataset)
    ref = ObjectRef(bucket="duramen", key=key, sha256=dataset, size=0)
    data = local.object("datasets", ref, ".jsonl")
    return {"base_dir": str(tokenizer_folder(local, settings.base_root)), "dataset": str(data)}


def tokenizer_folder(local: Local, root: str) -> Path:
    """Return a folder with all files of a base but its weights, at least.

    Raises ObjectMissing, ObjectDamaged.
    """
    folder = local.cache / "bases" / root
    if not folder.exists():
        folder = local.cache / "tokenizers" / root
        sums = parse_sums(local.store.read(PRECIOUS, layout.base_commit(root), sha256=root))
        for path, sha256 in sums.items():
            if not path.endswith(".safetensors") and not (folder / path).exists():
                key = layout.base_file(root, path)
                ref = ObjectRef(bucket="duramen", key=key, sha256=sha256, size=0)
                local.store.fetch(ref, folder / path)
    return folder


async def rows_previewed(trainer: Trainer, lineage: str, asked: RowsToPreview) -> RowsPreviewed:
    """Return rows as a job of today would train them, and what was counted of them.

    Raises NotFound, DuramenError.
    """
    settings = settings_of(trainer, lineage)
    request = {
        "clock": now().isoformat(),
        "rows": asked.rows,
        "shown": min(asked.shown, len(asked.rows)),
        "max_length": asked.max_length or trainer.settings.max_length,
        "on_long": asked.on_long or trainer.settings.on_long,
        "chat_template": settings.chat_template,
        "count_seconds": COUNT_SECONDS,
    }
    if PREVIEWING.locked():
        raise DuramenError("Another preview is being rendered. Try again in a minute.")
    async with PREVIEWING:
        folder = await asyncio.to_thread(tokenizer_folder, trainer.local, settings.base_root)
        request["base_dir"] = str(folder)
        found = await ask_child("sample", request, trainer.settings.threads, PREVIEW_SECONDS)
    if "failed" in found:
        raise DuramenError(found["failed"]["message"])
    own = {name: request[name] for name in ("max_length", "on_long")}
    return RowsPreviewed.model_validate({"lineage": lineage, **own, **found})


def settings_of(trainer: Trainer, lineage: str) -> LineageSettings:
    """Return the settings of a lineage. Raises NotFound."""
    line = trainer.table.lines.get(lineage)
    if line is None or line.settings is None:
        raise NotFound(f"There is no lineage {lineage!r}.", next_step="duramen lineage list")
    return line.settings


async def ask_child(
    module: str, request: dict[str, Any], threads: int | None, seconds: float
) -> dict[str, Any]:
    """Have a module of the worker encode rows in a process of its own; return what it printed.

    The supervisor itself never loads the tokenizers and templates of other people's models. Raises
    DuramenError if the child fails or takes longer than `seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="duramen-example-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"services.trainer.worker.{module}", str(path)),
            env=environment(threads),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            output, _ = await asyncio.wait_for(child.communicate(), seconds)
        except TimeoutError as error:
            child.kill()
            await child.wait()
            raise DuramenError(f"No answer after {seconds:.0f} seconds.") from error
    if child.returncode != 0:
        raise DuramenError("The process that looks into it failed; the trainer's log says why.")
    found: dict[str, Any] = json.loads(output)
    return found
