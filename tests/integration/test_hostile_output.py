"""Names, rows, answers and failures that are made to harm pass every command, and do nothing."""

import json
import os
import pty
import re
import tty
from collections.abc import Iterator
from pathlib import Path

from shared.protocol.records import Failure
from tests.command_line import duramen, evolution_service, without_settings
from tests.forkserver import start
from tests.history import forging
from tests.snapshots import Measurement
from tests.stack import Stack, wait_until
from tests.unit.test_foreign_text import is_harmless

EVIL = (
    "[red]z[bold]\x1b]52;c;ZXZpbA==\x07\x1b]0;t\x07\x1b[2J\x1b]8;;x\x1b\\\x9b2J\x90q\x9c\x7f\r\b"
    "\u202egnp\u2066\u200e\u2028\u200b\ufeff"
)
NAME = f"evil {EVIL}.jsonl"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(stack: Stack, words: list[str], **settings: str) -> str:
    """Return what a command writes to a terminal, with our colours left out."""
    main, side = pty.openpty()
    tty.setraw(side)
    given = {f"DURAMEN_{name.upper()}": value for name, value in settings.items()}
    environment = {**without_settings(), **stack.env("ctl"), **given}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "200"}
    environment.pop("NO_COLOR", None)
    program = start(["services.ctl", *words], environment, Path(os.ttyname(side)))
    os.close(side)
    said = b"".join(read_all(main))
    os.close(main)
    program.wait(60)
    return COLOURS.sub("", said.decode())


def read_all(descriptor: int) -> Iterator[bytes]:
    """Yield what is written to a terminal until nobody has it open."""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # the other side is closed
            return
        if not piece:
            return
        yield piece


async def test_no_command_lets_foreign_text_act(own_stack: Stack, tmp_path: Path) -> None:
    async with forging(own_stack, "main") as forged:
        job = await forged.queue(NAME, 8)
        await forged.open(job)
        await forged.plan(job, 4)
        await forged.snapshot(0, [Measurement(f"q {EVIL}", 3.0, False, f"a {EVIL}")])
        await forged.snapshot(2, [Measurement(f"q {EVIL}", 2.0, True, f"b {EVIL}")])
        failure = Failure(kind="template", message=f"no {EVIL}\nsecond {EVIL}", next_step=EVIL)
        await forged.close("done", forged.checkpoint(4, 4))
        other = await forged.queue(f"other {NAME}", 9)
        await forged.open(other)
        await forged.close("failed", None, failure=failure)
        other = forged.table.jobs[other.id]
        await forged.table.write(forged.buses["trainer"], other, "fail", "test", failure=failure)
    with evolution_service(own_stack, tmp_path / "state") as service:
        short = job.id.sha256[:12]

        def is_read() -> bool:
            reply = service.get(f"/api/evolution/snapshots/{short}")
            return reply.status_code == 200 and len(reply.json()["snapshots"]) == 2

        wait_until(is_read, 60, "the snapshots are read")
        commands = [
            ["status"],
            ["check"],
            ["queue", "list"],
            ["queue", "show", f"{short}.1"],
            ["queue", "show", f"{other.id.sha256[:12]}.1"],
            ["evolution", "list"],
            ["evolution", "show", f"{short}.1"],
            ["evolution", "example", f"{short}.1", "1"],
            ["queue", "show", f"no {EVIL}"],
        ]
        shown = 0
        for words in commands:
            seen = on_terminal(own_stack, words, evolution_url=service.url)
            assert is_harmless(seen), (words, seen)
            assert "Traceback" not in seen, (words, seen)
            shown += "[red]z[bold]" in seen
        assert shown >= 5  # it is there, as text
        for words in commands[-3:]:
            piped = duramen(own_stack, *words, "--json", evolution_url=service.url)
            assert is_harmless(piped.stdout + piped.stderr), words
            json.loads(piped.stdout)
