"""Strangers' text is shown, and does nothing else: to a terminal, a log, a mail, a page."""

import ast
import io
import json
import os
import pty
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from services.ctl import cli
from services.ctl.commands.watch import describe_event
from services.ctl.plain_console import PlainConsole
from services.ctl.views import columns
from services.herald import notify
from services.herald.notify import Address
from services.ingest.outcome.report import report_text
from shared import log
from shared.errors import DuramenError
from shared.foreign_text import one_line, plain, plain_json, plain_stream
from shared.formats.report import Problem, Report
from shared.ledger.jobs import Table as Jobs
from shared.protocol.events import Event

ROOT = Path(__file__).parents[2]
BAD = {
    "clipboard": "\x1b]52;c;ZXZpbA==\x1b\\",
    "link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "title": "\x1b]0;owned\x07",
    "erase": "\x1b[2J\x1b[H",
    "C1": "\x9b2J\x90q\x9c",
    "back": "safe\b\b\b\bevil\x7f\r\x0b\x0c",
    "direction": "a\u202egnp.exe\u202c\u2066x\u2069\u200e\u200f\u061c",
    "invisible": "a\u200b\ufeff\u2060\U000e0041\u2028\u2029",
    "surrogate": "a\ud800b",
    "NUL": "a\0b",
}
MARKUP = "[red]z[/red] [link=http://evil]x[/link] [/] :smile: [bold"
FINE = "Grüße, 你好, नमस्ते, 👩\u200d💻, שלום"
HARMLESS = re.compile(
    "[^\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e0fff]*"
)


def is_harmless(text: str) -> bool:
    text.encode()
    return HARMLESS.fullmatch(text) is not None


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_the_one_function_leaves_nothing_that_acts(text: str) -> None:
    document = json.dumps(text, ensure_ascii=False)
    for made in (plain(text), one_line(text), plain_json(document)):
        assert is_harmless(made)
    assert "\ufffd" in plain(text)
    assert json.loads(plain_json(document)) == text


def test_what_is_only_foreign_stays_as_it_is() -> None:
    assert plain(FINE) == plain_json(FINE) == FINE
    assert one_line(FINE) == FINE.replace("\u200d", "\ufffd")
    assert plain("a\tb\r\nc\n") == "a\tb\nc\n"


def in_table(text: str) -> Table:
    table = Table(text)
    table.add_row(text)
    table.add_row(Text(text))
    return table


def fail(text: str) -> None:
    def command(**_: Any) -> None:
        raise DuramenError(text)

    with pytest.raises(SystemExit):
        cli.main(command)  # type: ignore[arg-type]


SINKS: dict[str, Callable[[str], None]] = {
    "text": lambda text: cli.console.print(text, style="red", soft_wrap=True),
    "Text": lambda text: cli.console.print(Text.assemble((text, "bold"), text), soft_wrap=True),
    "table": lambda text: cli.console.print(in_table(text)),
    "columns": lambda text: cli.print_table([columns.text("file"), "x"], [[text, text]]),
    "note": lambda text: cli.note(text, "yellow"),
    "error": fail,
    "JSON": lambda text: cli.emit({text: [text]}, True, lambda: None),
    "said": cli.say,
}


@pytest.fixture
def fresh_console(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the console made anew, for the standard output of the test."""
    monkeypatch.setattr(sys, "argv", ["duramen"])
    vars(cli).pop("console", None)
    yield
    vars(cli).pop("console", None)
    cli.emitted.clear()


@pytest.mark.usefixtures("fresh_console")
@pytest.mark.parametrize("text", [*BAD.values(), MARKUP], ids=[*BAD, "markup"])
@pytest.mark.parametrize("sink", SINKS)
def test_a_pipe_gets_nothing_that_acts(sink: str, text: str) -> None:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        SINKS[sink](text)
    assert is_harmless(out.getvalue())
    if text is MARKUP and sink != "table":  # whose columns are narrow
        assert text in out.getvalue()


@pytest.mark.usefixtures("fresh_console")
@pytest.mark.parametrize("text", [*BAD.values(), MARKUP], ids=[*BAD, "markup"])
@pytest.mark.parametrize("sink", SINKS)
def test_a_terminal_gets_no_escape_but_our_colours(
    sink: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    main, side = pty.openpty()
    with os.fdopen(side, "w", encoding="utf-8") as terminal:
        with redirect_stdout(terminal), redirect_stderr(terminal):
            SINKS[sink](text)
        terminal.flush()
        seen = os.read(main, 1 << 16).decode()
    os.close(main)
    assert is_harmless(re.sub(r"\x1b\[[0-9;]*m|\r\n", "", seen))


# ---- nothing goes past those sinks ---------------------------------------------------------------

WRITERS = {("stdout", "write"), ("stderr", "write"), ("file", "write"), ("typer", "echo")}
CLEANERS = {"plain", "plain_json", "one_line"}
CLEAN_ALREADY = {"print_table", "note", "say"}  # functions whose lines were made plain


def names_called(node: ast.AST) -> set[str]:
    calls = (inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call))
    return {called.id for called in calls if isinstance(called, ast.Name)}


def is_writer(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "print"
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value
    last = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return (last, function.attr) in WRITERS


def writes_past(node: ast.AST) -> Iterator[int]:
    """Yield the lines on which something is written that no function has made plain."""
    if isinstance(node, ast.FunctionDef) and node.name in CLEAN_ALREADY:
        return
    if isinstance(node, ast.Call) and is_writer(node.func) and not CLEANERS & names_called(node):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from writes_past(child)


def test_no_command_writes_past_the_plain_console() -> None:
    for file in (ROOT / "services" / "ctl").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert list(writes_past(ast.parse(text))) == [], file
        assert "rich.markup" not in text, file
        assert "markup=True" not in text, file
        assert "Console(" not in text or file.name == "plain_console.py" or (
            text.count("Console(") == text.count("PlainConsole(")
        ), file  # fmt: skip


# ---- logs, mails, pages, reports -----------------------------------------------------------------


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_log_on_a_terminal_and_a_traceback_are_plain(text: str) -> None:
    logged = log.plain_values(None, "", {"event": text, "n": 1})
    assert is_harmless(str(logged["event"]))
    below = io.StringIO()
    stream = plain_stream(below)
    assert plain_stream(stream) is stream
    print(text, file=stream)
    assert is_harmless(below.getvalue())


async def test_a_mail_is_text_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    address = Address("json://127.0.0.1:9", 1)

    def take(**message: Any) -> bool:
        sent.append(message)
        return True

    monkeypatch.setattr(address._apprise, "notify", take)
    await address.send("alarm", "<img src=x>" + "".join(BAD.values()) + "x" * 9999)
    (message,) = sent
    assert message["body_format"] == "text"
    assert is_harmless(message["body"])
    assert len(message["body"]) == notify.MESSAGE_LENGTH


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_reports_beside_a_file_are_plain(text: str) -> None:
    problem = Problem(line=1, field="text", rule="x", message=text, sample=text)
    report = Report(
        taken="1", name=text, outcome="refused", why=text, next_step="",
        lineage="main", level="normal", kind="train", problems=[problem],
    )  # fmt: skip
    assert is_harmless(report_text(report).decode())
    if text != BAD["surrogate"]:  # which no JSON of pydantic's may hold
        assert is_harmless(report.encode().decode())
        assert Report.model_validate_json(report.encode()) == report


def test_an_unknown_event_shows_its_markup() -> None:
    event = Event(service="ingest", kind="new_kind", data={"name": MARKUP})
    assert MARKUP in describe_event(Jobs(), event)
    assert PlainConsole().render_str(MARKUP).plain == MARKUP
