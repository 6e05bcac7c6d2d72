"""Every command of `duramen` run at once, each in a process of its own with the modules loaded.

`python -m tests.each_command SECONDS` prints a JSON object: words of the command -> [exit code,
seconds, what it said]; one that took longer is run once more. The commands come from the command
line's own table; a new argument without an example in ARGUMENTS is an error, so that no command
can be forgotten.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx  # noqa: F401 - loaded here once, not in each process
import typer

import shared.store.s3  # noqa: F401 - as above
from services.ctl import cli
from services.ctl.__main__ import app

# Valid at a glance, so that what a command needs is what stops it.
ARGUMENTS = {
    "file": "{folder}/data.jsonl",
    "job": "3f9a1c2b7d10",
    "version": "v001",
    "a": "v001",
    "b": "v002",
    "dataset": "3f9a1c2b7d10",
    "number": "1",
    "name": "other",
    "base": "3f9a1c2b7d10",
    "service": "trainer",
    "source": "{folder}/model",
    "to": "{folder}/restored",
    "priority": "high",
}
ASKS_NOBODY = {"logs", "recover", "support-bundle"}  # they are for what does not run
OPTIONS = {"restore": ["to"], "move": ["priority"]}  # left out, they only explain themselves


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the words and the click command of each command that does something."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def given(words: tuple[str, ...], command: Any, folder: str) -> list[str]:
    """Return the command line of a command with all that it requires."""
    line = list(words)
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        if is_argument or parameter.required or parameter.name in OPTIONS.get(words[-1], []):
            value = ARGUMENTS[parameter.name].format(folder=folder)
            line += [value] if is_argument else [parameter.opts[0], value]
    return line


def start(line: list[str], output: Path) -> int:
    """Fork a process that runs one command; its id."""
    child = os.fork()
    if child:
        return child
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["duramen", *line]
    code = 1
    try:
        cli.main(app)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - nothing may get back into the parent's code
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_all(folder: Path, long: float) -> dict[str, tuple[int, float, str]]:
    """Run every command and wait for all. `long`: seconds above which one is run once more."""
    (folder / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "model" / name).write_text("{}")
    lines = {
        " ".join(words): given(words, command, str(folder))
        for words, command in commands(typer.main.get_command(app))
        if words[0] not in ASKS_NOBODY
    }
    ended = run_at_once(lines, folder)
    # Those may have waited for a core that others had.
    slow = [words for words, (_, seconds, _) in ended.items() if seconds > long]
    return ended | run_at_once({words: lines[words] for words in slow}, folder)


def run_at_once(lines: dict[str, list[str]], folder: Path) -> dict[str, tuple[int, float, str]]:
    """Run these command lines side by side."""
    running, ended = {}, {}
    for words, line in lines.items():
        output = folder / words
        running[start(line, output)] = words, output, time.monotonic()
    while running:
        child, status = os.wait()
        words, output, begun = running.pop(child)
        seconds = time.monotonic() - begun
        ended[words] = os.waitstatus_to_exitcode(status), seconds, output.read_text()
    return ended


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.stdout.write(json.dumps(run_all(Path(made), float(sys.argv[1]))))
