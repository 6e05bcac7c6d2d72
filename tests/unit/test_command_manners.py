"""How commands answer a person and a program: questions, errors as JSON, waits that are said."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.ctl import cli
from services.ctl.commands.bases import from_hub
from services.ctl.commands.control import steps_of
from services.ctl.commands.lineages import cells
from services.ctl.commands.restore import Restore
from services.ctl.views.naming import parse_version
from shared.errors import DuramenError, UsageError
from shared.formats.version import CommitRecord, StoredFile
from shared.ledger.lineage import Segment
from shared.protocol.names import JobId
from shared.protocol.observed import Observed, Progress
from shared.protocol.records import LineOpen
from tests.command_line import without_settings

ASK = "from services.ctl import cli; cli.confirm('Drop 3 steps?', {yes}); print('dropped')"


def at_terminal(code: str, *words: str, typed: bytes = b"") -> str:
    """Run Python code at a terminal, type something, and return what the terminal shows."""
    parent, child = pty.openpty()
    command = [sys.executable, "-c", code, *words]
    running = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    os.write(parent, typed)
    shown = b""
    try:
        while block := os.read(parent, 4096):
            shown += block
    except OSError:  # Linux ends a terminal with an error
        pass
    running.wait(10)
    os.close(parent)
    return shown.decode()


@pytest.mark.parametrize(
    ("yes", "words", "typed", "asked", "dropped"),
    [
        (False, (), b"n\n", True, False),
        (False, (), b"y\n", True, True),
        (True, (), b"", False, True),
        (False, ("--json",), b"", False, True),
    ],
)
def test_a_person_is_asked_before_something_is_lost(
    yes: bool, words: tuple[str, ...], typed: bytes, asked: bool, dropped: bool
) -> None:
    shown = at_terminal(ASK.format(yes=yes), *words, typed=typed)
    assert ("Drop 3 steps?" in shown, "dropped" in shown) == (asked, dropped)


def test_a_program_is_never_asked() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ASK.format(yes=False)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "dropped\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [(["versions", "show", "none"], 2), (["queue", "move", "x"], 2), (["pause", "--nonsense"], 2)],
)
def test_an_error_is_json_for_programs(words: list[str], code: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "services.ctl", *words, "--json"],
        env=without_settings(),
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(run.stdout)
    assert (run.returncode, said["exit_code"]) == (code, code)
    assert said["error"]
    assert said["next"]
    assert said["error"].split()[0] in run.stderr


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DuramenError, match="owner/model") as caught:
        from_hub("owner/model", None, None)
    assert caught.value.next_step


def test_latest_is_not_called_an_unknown_version() -> None:
    with pytest.raises(UsageError, match="Name a version here"):
        parse_version("latest")


def test_a_long_wait_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with cli.wait_notice("the bus"):
        time.sleep(0.01)
    assert capsys.readouterr().err == ""
    with cli.wait_notice("the bus"):
        deadline = time.monotonic() + 10
        said = ""
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
            said = capsys.readouterr().err
    assert said == "duramen: waiting for the bus …\n"


def test_the_steps_of_a_run_are_counted_from_its_start() -> None:
    record = LineOpen(
        by="test",
        prev=0,
        lineage="main",
        segment="0" * 12,
        job="main/" + "0" * 64 + "/1",
        job_sequence=1,
        position=0,
        global_step=40,
        micro_tokens=256,
        dtype="float32",
        lease="trainer.main",
        owner="one",
        host="host",
    )
    segment = Segment(record.segment, JobId("main", "0" * 64, 1), 0, [(1, record)])
    seen = Observed(
        service="trainer",
        instance="one",
        state="running",
        segment=record.segment,
        progress=Progress(position=3, steps=10, global_step=43),
    )
    assert steps_of(segment, seen) == 3
    assert steps_of(segment, None) == 0


@pytest.mark.parametrize(("quantize", "shown"), [("none", "bfloat16"), ("nf4", "bfloat16, nf4")])
def test_a_quantised_lineage_is_told_from_another(quantize: str, shown: str) -> None:
    row = {
        "lineage": "main",
        "base_root": "0" * 64,
        "lora": {"rank": 16, "alpha": 32},
        "dtype": "bfloat16",
        "quantize": quantize,
        "global_step": 0,
        "latest": None,
    }
    assert cells(row)[3] == shown


def test_a_version_without_its_list_of_hashes_is_refused_in_words(tmp_path: Path) -> None:
    file = StoredFile(path="a", sha256="0" * 64, size=1, store_version_id="", backup_version_id="")
    commit = CommitRecord(
        lineage="main",
        version=1,
        ledger_sequence=3,
        prefix="lineages/main/v001/",
        manifest_sha256="0" * 64,
        base_root="1" * 64,
        dataset_sha256="2" * 64,
        files=[file],
        verified_copies=3,
    )
    with pytest.raises(DuramenError, match="SHA256SUMS"):
        Restore([]).check_sums(commit, tmp_path)
