"""A child process that parses the files of strangers, with little memory and time.

`python -m services.ingest.reading.parser` speaks JSON lines: requests on stdin, answers on stdout.
The child may map MEMORY_BYTES beyond what it had at its start, and gets processor time by the size
of the file; otherwise the kernel ends it. It is started when first needed, and again after that.
"""

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.ingest.inbox import sidecar
from services.ingest.reading import dataset, sample
from services.ingest.reading.dataset import Built, ReadingRequest
from services.ingest.reading.row import DEFAULT
from services.ingest.reading.row_error import Unreadable
from services.ingest.reading.rows.options import RowOptions
from shared.answers.ingest import SampledRow
from shared.child import Child, ChildEnded, answer_lines, die_with_parent, limit_memory
from shared.formats.report import Contents, Problem
from shared.progress import beat

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 60  # and one more for each of:
BYTES_A_SECOND = 2 << 20
WALL_FACTOR = 5  # a busy machine, a slow disk


class ParserDied(Exception):
    """The child was ended while it read a file; the message says why."""


class SidecarRefused(Exception):
    """A sidecar cannot be read; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.message)


class Parser:
    """The parent's side of the child, which takes one request at a time.

    A request may take `wall_factor` times as long as its limit of processor time.
    """

    def __init__(
        self,
        memory_bytes: int = MEMORY_BYTES,
        cpu_seconds: int = CPU_SECONDS,
        wall_factor: int = WALL_FACTOR,
    ) -> None:
        self.memory_bytes, self.cpu_seconds = memory_bytes, cpu_seconds
        self.wall_factor = wall_factor
        self.child = Child(
            "services.ingest.reading.parser",
            str(memory_bytes),
            environment={"ARROW_DEFAULT_MEMORY_POOL": "system"},
        )

    def build(self, folder: Path, name: str, wanted: ReadingRequest) -> Built:
        """Return what dataset.build_dataset makes of a file, in the child. Blocking.

        Raises ParserDied, OSError.
        """
        size = (folder / dataset.ORIGINAL).stat().st_size
        request = {"do": "build", "folder": str(folder), "name": name, "wanted": asdict(wanted)}
        reply = self.ask(request, self.cpu_seconds + size // BYTES_A_SECOND)
        return Built(folder, Contents.model_validate(reply["contents"]))

    def sample(self, built: Built) -> list[SampledRow]:
        """Return what sample.take_sample takes of a dataset, in the child. Blocking.

        Raises ParserDied, OSError.
        """
        rows, size = built.contents.rows, built.contents.dataset_bytes
        request = {"do": "sample", "folder": str(built.folder), "rows": rows}
        reply = self.ask(request, self.cpu_seconds + size // BYTES_A_SECOND)
        return [SampledRow.model_validate(row) for row in reply["rows"]]

    def settings(self, path: Path) -> dict[str, Any]:
        """Return the values of a sidecar, as sidecar.sidecar_values reads them, in the child.

        Blocking. Raises SidecarRefused, ParserDied, OSError.
        """
        reply = self.ask({"do": "settings", "path": str(path)}, self.cpu_seconds)
        if "refused" in reply:
            raise SidecarRefused(Problem.model_validate(reply["refused"]))
        return dict(reply["values"])

    def ask(self, request: dict[str, Any], cpu_seconds: int) -> dict[str, Any]:
        """Return one answer of the child. Raises ParserDied, OSError."""
        wall_seconds = cpu_seconds * self.wall_factor
        try:
            reply = self.child.ask(request, cpu_seconds, wall_seconds=wall_seconds, meanwhile=beat)
        except ChildEnded as ended:
            raise ParserDied(why_died(ended.status, self.memory_bytes, cpu_seconds)) from ended
        if "memory" in reply:
            self.child.close()
            raise ParserDied(too_much_memory(self.memory_bytes))
        if "disk" in reply:
            raise OSError(*reply["disk"])
        return reply

    def start(self) -> None:
        """Start the child if there is none.

        Call it from a thread that lives on: the child dies with that thread.
        """
        self.child.start()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self.child.close()


def why_died(status: int, memory_bytes: int, cpu_seconds: int) -> str:
    if status == -signal.SIGXCPU:
        return f"reading it took more than {cpu_seconds} seconds of processor time"
    if status == -signal.SIGKILL:
        return f"reading it took too long, or more than {memory_bytes >> 20} MiB of memory"
    if status < 0:  # some libraries crash where memory ends
        name = signal.Signals(-status).name
        return f"reading it crashed ({name}) or took more than {memory_bytes >> 20} MiB of memory"
    return f"the process that read it ended with status {status}"


def too_much_memory(memory_bytes: int) -> str:
    return f"reading it takes more than {memory_bytes >> 20} MiB of memory"


# ---- the child -----------------------------------------------------------------------------------


def serve_requests(memory_bytes: int) -> None:
    """Answer requests until stdin ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends this process
    limit_memory(memory_bytes, may_write=True)
    answer_lines(answer_or_why)


def answer_or_why(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer, or that there is too little memory or disk for one."""
    try:
        return answer_request(request)
    except MemoryError:
        return {"memory": True}
    except OSError as error:
        return {"disk": [error.errno or 0, error.strerror or str(error)]}


def answer_request(request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "settings":
        try:
            return {"values": sidecar.sidecar_values(Path(request["path"]))}
        except Unreadable as error:
            return {"refused": dataset.problem(error.why, error.line, "").model_dump()}
    if request["do"] == "sample":
        found = sample.take_sample(Path(request["folder"]), request["rows"])
        return {"rows": [row.model_dump() for row in found]}
    fields = request["wanted"]
    tokens, rows = tuple(fields["special_tokens"]), row_options_of(fields["rows"])
    wanted = ReadingRequest(**{**fields, "special_tokens": tokens, "rows": rows})
    built = dataset.build_dataset(Path(request["folder"]), request["name"], wanted)
    return {"contents": built.contents.model_dump(mode="json")}


def row_options_of(fields: dict[str, Any]) -> RowOptions:
    """Return how rows are read, as the request says it."""
    said = RowOptions(**{**fields, "ignore": tuple(fields["ignore"])})
    return DEFAULT if said.is_default else said


if __name__ == "__main__":
    serve_requests(int(sys.argv[1]))
