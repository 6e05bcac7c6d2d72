"""Answers `lineage new`: whether a base can be trained, found by a child process on the CPU.

What was found is kept, for `lineage show`.
"""

import asyncio
from pathlib import Path
from typing import Any

from services.trainer.supervisor.local_files import Local
from services.trainer.supervisor.on_request.show_example import ask_child, tokenizer_folder
from services.trainer.supervisor.trainer import Trainer
from shared.answers.trainer import BaseTried
from shared.errors import DuramenError, UsageError
from shared.files import sha256_bytes, write_synced
from shared.formats.adapter import AdapterShape
from shared.formats.canonical import canonical_json
from shared.host import machine_memory
from shared.memory_estimate import GIB, gib

TRIAL_SECONDS = 150.0
LARGEST_TRIED = 600_000_000  # numbers of a base that is tried out itself, as float32
FREE_BYTES_NEEDED = {
    True: 5 * GIB,
    False: 7 * GIB,
}  # for such a base, and a smaller network
TRYING = asyncio.Lock()


async def base_tried(trainer: Trainer, root: str, lora: AdapterShape) -> BaseTried:
    """Return what was found when a base was tried out with an adapter of this shape.

    The child has the lowest priority, and one thread while a job is open, so that it takes little
    from a job, and never touches a GPU. Raises DuramenError, ObjectMissing.
    """
    if TRYING.locked():
        raise DuramenError("Another base is being tried out. Try again in two minutes.")
    async with TRYING:
        folder, is_whole = await asyncio.to_thread(fetch_base, trainer.local, root)
        request: dict[str, Any] = {"base_dir": str(folder), "lora": lora.model_dump(mode="json")}
        threads = 1 if trainer.held.segment else trainer.settings.threads
        request["whole"] = is_whole
        found = await ask_child("base_trial", request, threads, TRIAL_SECONDS)
    tried = BaseTried.model_validate(found)
    kept = kept_trial(trainer.local, root, lora)
    await asyncio.to_thread(kept.parent.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(write_synced, kept, tried.model_dump_json(exclude_unset=True).encode())
    return tried


def kept_trial(local: Local, root: str, lora: AdapterShape) -> Path:
    """Return the file with what was found, if this base was tried out with such an adapter."""
    shape = sha256_bytes(canonical_json(lora.model_dump(mode="json")))
    return local.root / "trials" / f"{root}-{shape[:12]}.json"


def earlier_trial(local: Local, root: str, lora: AdapterShape) -> BaseTried:
    """Return what was found when the base was tried out, or nothing if it never was. Blocking."""
    try:
        return BaseTried.model_validate_json(kept_trial(local, root, lora).read_bytes())
    except (OSError, ValueError):
        return BaseTried()


def fetch_base(local: Local, root: str) -> tuple[Path, bool]:
    """Fetch a base, without its weights if it is large; return its folder, and True if it is whole.

    Raises DuramenError if too little memory is free to try it out.
    """
    try:
        numbers = local.shape(root).numbers
    except UsageError:
        numbers = LARGEST_TRIED + 1
    is_whole = numbers <= LARGEST_TRIED
    need = min(FREE_BYTES_NEEDED[is_whole], numbers * 10 + GIB)
    if (free := machine_memory().free) < need:
        raise DuramenError(f"It takes {gib(need)} of memory, and {gib(free)} are free.")
    return (local.base(root) if is_whole else tokenizer_folder(local, root)), is_whole
