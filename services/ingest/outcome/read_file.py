"""What is known of a taken file, and its reading: a private copy, its sidecar, its dataset."""

import asyncio
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Histogram

from services.ingest.container.names import container_of
from services.ingest.inbox.inbox import Taken
from services.ingest.inbox.rename import show_name
from services.ingest.inbox.settle import Signature, open_plainly, signature
from services.ingest.ingest import Ingest
from services.ingest.outcome import job_settings
from services.ingest.outcome.job_settings import Asked, SettingsRefused
from services.ingest.outcome.refusal import PUT_AGAIN, WholeFileRefused, refuse_other_kinds
from services.ingest.reading import dataset, special_tokens
from services.ingest.reading.dataset import Built, ReadingRequest
from services.ingest.reading.parser import Parser, ParserDied, SidecarRefused
from shared import log
from shared.backoff import Backoff
from shared.files import write_synced
from shared.protocol.largest import why_too_many

BYTES = Counter("duramen_ingest_bytes_total", "Bytes read of dropped files.")
SECONDS = Histogram(
    "duramen_ingest_stage_seconds",
    "For one file: `copy` it, `read` it (parse, check, hash, find repeated rows), `upload` it.",
    ["stage"],
    buckets=(0.01, 0.1, 1, 10, 60, 300, 1800, 7200),
)
DEATHS = Counter("duramen_ingest_parser_deaths_total", "Parsers that a file has ended.")
MOST_DEATHS = 2
FIX_SIDECAR = "fix the sidecar, then put both files into the inbox again."
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 30.0


class Changed(Exception):
    """A taken file was written to after all."""


@dataclass
class PendingFile:
    """What is known of a taken file between two looks at it."""

    name: str
    asked: Asked | None = None
    built: Built | None = None
    read: Signature | None = None
    why: str | None = None
    delay: Backoff = field(
        default_factory=lambda: Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
    )
    deaths: int = 0
    done: bool = False


@dataclass
class FileReader:
    """Reads taken files in the parser. `work_dir` holds private copies, no originals."""

    ingest: Ingest
    work_dir: Path
    max_row_bytes: int
    parser: Parser = field(default_factory=Parser)

    def __post_init__(self) -> None:
        shutil.rmtree(self.work_dir, ignore_errors=True)
        self.work_dir.mkdir(parents=True)

    def folder(self, taken: Taken) -> Path:
        """Return where the private copy of a file lies, and what was made of it."""
        return self.work_dir / taken.origin.id

    async def settings_of(self, taken: Taken, held: PendingFile) -> Asked:
        """Return what was set for this file, by its sidecar or with the upload. Raises Refused."""
        try:
            return job_settings.read_settings(await self.values_of(taken, held))
        except SettingsRefused as error:
            problems = [dataset.problem(p, None, "") for p in error.problems]
            raise WholeFileRefused(problems, FIX_SIDECAR) from error

    async def values_of(self, taken: Taken, held: PendingFile) -> dict[str, Any]:
        """Return names and values as they were set for this file. Raises Refused."""
        values: dict[str, Any] = {}
        if taken.origin.sidecar is not None:
            write_synced(taken.sidecar, taken.origin.sidecar.encode())
        if os.path.lexists(taken.sidecar):
            values = await self.sidecar_values(taken.sidecar, held)
        return job_settings.over(values, taken.origin.settings)

    async def sidecar_values(self, path: Path, held: PendingFile) -> dict[str, Any]:
        """Names and values of a sidecar. Raises Refused."""
        refuse_other_kinds(path.lstat())
        try:
            values: dict[str, Any] = await self.in_parser(held, self.parser.settings, path)
            return values
        except SidecarRefused as error:
            step = "fix the sidecar, then put it into the inbox again together with its data file."
            raise WholeFileRefused([error.problem], step) from error

    async def read(self, taken: Taken, held: PendingFile) -> None:
        """Build the dataset of a file. Raises Changed, Refused, OSError."""
        assert held.asked is not None
        folder = self.folder(taken)
        try:
            with SECONDS.labels("copy").time():
                held.read = await asyncio.to_thread(self.copy, taken, folder)
        except PermissionError as error:
            message = "Its permissions do not allow it to be read. Type: chmod a+r FILE"
            raise WholeFileRefused.of("unreadable", message, PUT_AGAIN) from error
        tokens = await self.special_tokens(taken.origin.lineage)
        wanted = ReadingRequest(
            self.max_row_bytes, held.asked.settings.allow_bad, tokens, rows=held.asked.rows
        )
        name = show_name(taken.origin.name)
        # By its own name: what is shown may be cut.
        container = container_of(taken.origin.name)
        assert container is not None
        if container_of(name) != container:
            name += container.suffix
        with SECONDS.labels("read").time():
            held.built = await self.in_parser(held, self.parser.build, folder, name, wanted)
        BYTES.inc(held.built.contents.original_bytes)
        too_many = why_too_many(held.built.contents.rows, held.asked.settings.epochs or 1)
        if too_many:
            raise WholeFileRefused.of("plan_size", too_many)

    async def in_parser(self, held: PendingFile, call: Any, *arguments: Any) -> Any:
        """Let the parser do something; a file that has ended it twice is refused."""
        while True:
            self.parser.start()
            try:
                return await asyncio.to_thread(call, *arguments)
            except asyncio.CancelledError:
                self.parser.close()
                raise
            except ParserDied as error:
                held.deaths += 1
                DEATHS.inc()
                log.get().warning("parser_died", name=held.name, why=str(error))
                if held.deaths >= MOST_DEATHS:
                    message = f"It cannot be read: {error}, {held.deaths} times."
                    raise WholeFileRefused.of("parser", message) from error

    async def special_tokens(self, lineage: str) -> tuple[str, ...]:
        """Return the tokens that begin or end a turn in the lineage; none while it has no base."""
        await self.ingest.table.update(self.ingest.bus)
        line = self.ingest.table.lines.get(lineage)
        if line is None or line.head is None:
            return ()
        own = line.settings.chat_template if line.settings else None
        return await asyncio.to_thread(
            special_tokens.of_lineage, self.ingest.store, line.head.base_root, own
        )

    def copy(self, taken: Taken, folder: Path) -> Signature:
        """A private copy. Blocking. Raises Changed."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        descriptor = open_plainly(taken.path)
        try:
            before = signature(os.fstat(descriptor))
            dataset.copy_original(descriptor, folder / dataset.ORIGINAL)
            if signature(os.fstat(descriptor)) != before:
                raise Changed
        finally:
            os.close(descriptor)
        return before


def check_unchanged(taken: Taken, held: PendingFile) -> None:
    """Raises Changed if the file is no longer what was read."""
    if signature(taken.path.lstat()) != held.read:
        raise Changed
