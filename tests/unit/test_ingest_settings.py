"""Sidecars and settings: what is taken, what is refused and why; the parser's limits."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.ingest.inbox import sidecar
from services.ingest.inbox.inbox import FILE, SIDECAR, Inbox, TakenFrom, beside
from services.ingest.inbox.settle import is_written
from services.ingest.outcome.job_settings import SettingsRefused, read_settings
from services.ingest.outcome.late_sidecar import over_earlier
from services.ingest.reading.dataset import ORIGINAL, ReadingRequest
from services.ingest.reading.parser import BYTES_A_SECOND, Parser, ParserDied, SidecarRefused
from services.ingest.reading.row_error import Unreadable
from shared.protocol.allowance import Allowance
from shared.protocol.records import JobSettings


def values(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "data.yaml"
    path.write_bytes(text.encode())
    return sidecar.sidecar_values(path)


def test_the_names_of_other_trainers_are_understood(tmp_path: Path) -> None:
    written = """
        # as one has them from another trainer
        learning_rate: 2e-4
        num_train_epochs: 3.0
        max_seq_length: 4096
        max_grad_norm: 0.5
        lr_scheduler_type: cosine
        description: 12
        on_long: truncate
        allow_bad: 2%
        again: true
    """
    asked = read_settings(values(tmp_path, written))
    assert asked.settings == JobSettings(
        learning_rate=2e-4,
        epochs=3,
        max_length=4096,
        clip=0.5,
        schedule="cosine",
        description="12",
        on_long="truncate",
        allow_bad="2%",
        delta="off",
    )
    assert asked.again
    assert read_settings(values(tmp_path, "")).settings == JobSettings()


@pytest.mark.parametrize(
    ("written", "delta"),
    [
        ("delta: off", "off"),
        ("delta: False", "off"),
        ("delta: no", "off"),
        ("delta: 'off'", "off"),
        ("delta: on", "on"),
        ("delta: true", "on"),
        ("delta: YES", "on"),
        ("again: true", "off"),
        ("again: true\ndelta: on", "on"),
        ("again: false", None),
    ],
)
def test_whether_only_new_rows_are_trained_is_said_as_yaml_reads_it(
    tmp_path: Path, written: str, delta: str | None
) -> None:
    assert read_settings(values(tmp_path, written)).settings.delta == delta


def test_a_late_sidecar_keeps_what_was_decided_when_its_file_was_taken() -> None:
    earlier = JobSettings(allow_bad="2%", delta="off", epochs=3)
    late = over_earlier(JobSettings(epochs=1), earlier)
    assert late == JobSettings(allow_bad="2%", delta="off", epochs=1)
    assert over_earlier(JobSettings(delta="on"), earlier).delta == "on"


WRONG: list[tuple[str, Any, str, str]] = [
    ("base_model", "x", "of_lineage", "its base is fixed"),
    ("lora_alpha", 3, "of_lineage", "duramen lineage new"),
    ("bf16", True, "of_lineage", "dtype"),
    ("per_device_train_batch_size", 4, "not_a_setting", "batch_tokens"),
    ("level", "high", "not_a_setting", "inbox/priority/"),
    ("colour", "red", "unknown_setting", "num_train_epochs"),
    ("learning_rate", "fast", "setting_value", "it must be a number"),
    ("learning_rate", -1, "setting_value", "greater than 0"),
    ("learning_rate", float("inf"), "setting_value", "finite"),
    ("epochs", 2.5, "setting_value", "a whole number"),
    ("epochs", True, "setting_value", "number"),
    ("epochs", 0, "setting_value", "at least 1"),
    ("on_long", "cut", "setting_value", "truncate"),
    ("allow_bad", "some", "setting_value", "share of them"),
    ("allow_bad", "120%", "setting_value", "share of them"),
    ("delta", "some", "setting_value", "on or off"),
    ("delta", 1, "setting_value", "on or off"),
    ("again", "perhaps", "setting_value", "true or false"),
    ("description", "x" * 600, "setting_value", "500"),
]


@pytest.mark.parametrize(("name", "value", "rule", "words"), WRONG)
def test_a_wrong_setting_is_named_with_its_reason(
    name: str, value: Any, rule: str, words: str
) -> None:
    with pytest.raises(SettingsRefused) as caught:
        read_settings({name: value})
    (problem,) = caught.value.problems
    assert (problem.field, problem.rule) == (name, rule)
    assert words in problem.message


def test_two_names_of_one_setting_are_refused() -> None:
    with pytest.raises(SettingsRefused, match="two names for the same setting"):
        read_settings({"epochs": 1, "num_train_epochs": 2})


@pytest.mark.parametrize(
    "text",
    [
        *["- a\n", "a: [1]\n", "a: {b: 1}\n", "a: 1\na: 2\n", "a: 'x\n", "a: *b\n", "\0"],
        *["x" * 70_000, "a: &x [*x]\n", "a: 1\n---\nb: 2\n"],
        "!!python/object/apply:os.system ['true']\n",
    ],
)
def test_a_sidecar_that_is_no_list_of_names_and_values_is_refused(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(Unreadable) as caught:
        values(tmp_path, text)
    assert caught.value.why.message.endswith(".")


def test_an_allowance_is_a_number_or_a_share() -> None:
    assert Allowance.of("3").covers(3, 10)
    assert not Allowance.of("3").covers(4, 1000)
    assert Allowance.of("2.5 %").covers(5, 200)
    assert not Allowance.of(None).covers(1, 10**9)


def test_a_sidecar_is_named_as_its_data_file() -> None:
    assert sidecar.belongs("a.yaml", "a.jsonl.gz")
    assert sidecar.belongs("a.jsonl.yml", "a.jsonl")
    assert not sidecar.belongs("a.yaml", "a.b.jsonl")
    assert not sidecar.belongs("b.yaml", "a.jsonl")


# ---- the parser ----------------------------------------------------------------------------------


@pytest.fixture
def parser() -> Iterator[Parser]:
    """A parser with little memory, and one second to compute however long the machine takes."""
    made = Parser(memory_bytes=100 << 20, cpu_seconds=1, wall_factor=100)
    yield made
    made.close()


def test_a_parser_that_takes_too_much_memory_is_ended_and_the_next_one_starts(
    parser: Parser, tmp_path: Path
) -> None:
    # One character beyond ASCII, and each takes four bytes.
    row = '{"text":"😀' + "a" * (20 << 20) + '"}'
    (tmp_path / ORIGINAL).write_text(row, encoding="utf-8")
    with pytest.raises(ParserDied, match="100 MiB of memory"):
        parser.build(tmp_path, "a.jsonl", ReadingRequest(64 << 20))
    (tmp_path / ORIGINAL).write_bytes(b'{"text":"a"}\n')
    assert parser.build(tmp_path, "a.jsonl", ReadingRequest(64 << 20)).contents.rows == 1


@pytest.mark.slow
def test_a_parser_that_takes_too_much_time_is_ended(tmp_path: Path) -> None:
    with (tmp_path / ORIGINAL).open("wb") as file:
        file.writelines(b'{"text":"%d"}\n' % n for n in range(500_000))
    # What the size of the file would allow is taken off again.
    cpu_seconds = 1 - (tmp_path / ORIGINAL).stat().st_size // BYTES_A_SECOND
    parser = Parser(memory_bytes=1 << 30, cpu_seconds=cpu_seconds, wall_factor=100)
    with closing(parser), pytest.raises(ParserDied, match="processor time"):
        parser.build(tmp_path, "a.jsonl", ReadingRequest(1 << 20))


def test_a_parser_reads_a_sidecar_or_says_what_is_wrong_with_it(
    parser: Parser, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"epochs: 1\n")
    assert parser.settings(path) == {"epochs": 1}
    path.write_bytes(b"- a\n")
    with pytest.raises(SidecarRefused, match="name: value"):
        parser.settings(path)
    with pytest.raises(FileNotFoundError):
        parser.settings(tmp_path / "gone")


# ---- taking --------------------------------------------------------------------------------------


def test_a_file_that_is_open_for_writing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x")
    assert not is_written(path)
    with path.open("ab"):
        assert is_written(path)
    with path.open("rb"):
        assert not is_written(path)
    assert not is_written(tmp_path / "gone")


def test_a_sidecar_follows_its_file_also_after_a_kill(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    (tmp_path / "a.yaml").write_bytes(b"epochs: 1\n")
    data = next(e for e in inbox.look().entries if e.path.name == "a.jsonl")
    taken = inbox.take(data)
    assert taken is not None
    (entry,) = inbox.sidecars(taken)
    inbox.take_sidecar(taken, entry)
    # As far as a kill after the rename of the file left it.
    target = tmp_path / "rejected/a.jsonl"
    (taken.folder / "target").write_bytes(b"rejected/a.jsonl")
    (taken.folder / FILE).rename(target)
    assert (taken.folder / SIDECAR).exists()
    assert inbox.taken() == []
    assert beside(target, "yaml").read_bytes() == b"epochs: 1\n"
    assert not taken.folder.exists()
    inbox.close()


def test_an_upload_that_arrives_beside_a_look_is_not_cleared_away(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            inbox.taken()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for n in range(60):
            file = tmp_path / ".uploads" / str(n)
            file.write_bytes(b"x")
            origin = TakenFrom(f"{n:032x}", "b.jsonl", "normal", "main", "train")
            assert inbox.receive(origin, file).path.exists()
    finally:
        stop.set()
        thread.join()
        inbox.close()
