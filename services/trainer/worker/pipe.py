"""The worker's end of the pipes to its supervisor: events go out, commands come in."""

import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from services.trainer.protocol import (
    COMMANDS,
    Command,
    Go,
    Stop,
    StopReason,
    TakeCheckpoint,
    TakeSnapshot,
    WorkerEvent,
)
from shared.child import ORPHANED
from shared.foreign_text import plain, plain_stream


@dataclass
class Requests:
    """The requests of the supervisor that have not been taken yet."""

    stop: StopReason | None = None
    checkpoint: bool = False
    snapshot: bool = False


class SupervisorLink(Protocol):
    """The supervisor at the other end, as the training loop sees it."""

    def emit(self, event: WorkerEvent) -> None: ...

    def take(self) -> Requests: ...

    def leaving(self) -> bool: ...


class SupervisorPipe:
    """The connection to the supervisor: events on standard output, commands on standard input."""

    def __init__(self) -> None:
        # Libraries print. Nothing but events may reach the supervisor, so fd 1 becomes fd 2.
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        sys.stdout = sys.stderr = plain_stream(sys.stderr)  # templates' words, too
        self._arrived = threading.Condition()
        self._requests = Requests()
        self._may_go = False
        self._disposable = True  # before the first step, nothing is lost by exiting at once
        threading.Thread(target=self._listen, daemon=True).start()

    def emit(self, event: WorkerEvent) -> None:
        """Send an event to the supervisor; end this process if the supervisor is gone."""
        try:
            self._out.write(event.model_dump_json().encode() + b"\n")
        except BrokenPipeError:
            os._exit(ORPHANED)

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            try:
                command = COMMANDS.validate_json(line)
            except ValidationError:
                say(f"not a command: {line[:200]!r}")
                continue
            with self._arrived:
                self._note(command)
                self._arrived.notify_all()
        # End of file: the supervisor is gone, so nobody could use what this process still does.
        os._exit(ORPHANED)

    def _note(self, command: Command) -> None:
        match command:
            case Go():
                self._may_go = True
            case Stop() if self._disposable:
                os._exit(0)
            case Stop():
                self._requests.stop = command.reason
            case TakeCheckpoint():
                self._requests.checkpoint = True
            case TakeSnapshot():
                self._requests.snapshot = True

    def take(self) -> Requests:
        """Return what was asked for since the last call."""
        with self._arrived:
            taken, self._requests = self._requests, Requests()
        return taken

    def leaving(self) -> bool:
        """Return whether a `stop` waits to be taken."""
        with self._arrived:
            return self._requests.stop is not None

    def wait_for_go(self) -> None:
        """Block until `go` arrives: the plan is stored then."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._may_go)

    def begin(self) -> None:
        """Make `stop` mean, from here on, to end after the step with a checkpoint."""
        with self._arrived:
            self._disposable = False


def say(sentence: str) -> None:
    """Write a line to the job's log. On a full disk the line is lost, but no error is raised."""
    with suppress(OSError):
        os.write(2, plain(sentence).encode() + b"\n")
