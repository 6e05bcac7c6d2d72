"""Answers `show-example`: how the model sees a row of a dataset, found by a child process."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.run.worker_process import environment
from services.trainer.supervisor.trainer import Trainer
from shared.answers.trainer import RowShown
from shared.errors import DuramenError, NotFound
from shared.formats.version import parse_sums
from shared.protocol.message import ObjectRef
from shared.protocol.names import now
from shared.protocol.records import JobSettings, LineageSettings
from shared.store import layout
from shared.store.place import PRECIOUS

EXAMPLE_SECONDS = 60.0


async def example_shown(trainer: Trainer, lineage: str, dataset: str, row: int) -> RowShown:
    """Return the tokens of a row (from 1), and which of them are trained.

    Raises NotFound, DuramenError.
    """
    line = trainer.table.lines.get(lineage)
    if line is None or line.settings is None:
        raise NotFound(f"There is no lineage {lineage!r}.", next_step="duramen lineage list")
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
        "chat_template": line.settings.chat_template,
    }
    files = await asyncio.to_thread(fetch, trainer.local, line.settings, dataset)
    found = await ask_child(request | files, trainer.settings.threads)
    return RowShown.model_validate({"lineage": lineage, "dataset": dataset, "row": row, **found})


def fetch(local: Local, settings: LineageSettings, dataset: str) -> dict[str, str]:
    """Fetch the dataset and all files of the base but its weights; return their paths.

    Raises ObjectMissing, ObjectDamaged.
    """
    key = layout.dataset_data(dataset)
    data = local.object(
        "datasets", ObjectRef(bucket="duramen", key=key, sha256=dataset, size=0), ".jsonl"
    )
    root = settings.base_root
    folder = local.cache / "bases" / root
    if not folder.exists():
        folder = local.cache / "tokenizers" / root
        sums = parse_sums(local.store.read(PRECIOUS, layout.base_commit(root), sha256=root))
        for path, sha256 in sums.items():
            if not path.endswith(".safetensors") and not (folder / path).exists():
                key = layout.base_file(root, path)
                ref = ObjectRef(bucket="duramen", key=key, sha256=sha256, size=0)
                local.store.fetch(ref, folder / path)
    return {"base_dir": str(folder), "dataset": str(data)}


async def ask_child(request: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """Have a child process encode the row; return what it printed.

    The supervisor itself never loads the tokenizers and templates of other people's models. Raises
    DuramenError if the child fails or takes longer than EXAMPLE_SECONDS.
    """
    with tempfile.TemporaryDirectory(prefix="duramen-example-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.trainer.worker.example", str(path)),
            env=environment(threads),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            output, _ = await asyncio.wait_for(child.communicate(), EXAMPLE_SECONDS)
        except TimeoutError as error:
            child.kill()
            await child.wait()
            raise DuramenError(f"No answer after {EXAMPLE_SECONDS:.0f} seconds.") from error
    if child.returncode != 0:
        raise DuramenError("The row could not be shown; the trainer's log says why.")
    found: dict[str, Any] = json.loads(output)
    return found
