"""An exported file of the bus is read as it was written, and nothing else is read as one."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from shared.formats.bus_export import (
    ExportedRecord,
    ExportHeader,
    pack_export,
    read_export,
    record_line,
    text_fields,
)

AT = datetime(2026, 11, 28, tzinfo=UTC)
BODIES = [b'{"a":1}', b"", "\u00e9\n\u2028".encode(), b"\xff\x00not text"]


def records() -> list[ExportedRecord]:
    return [
        ExportedRecord(
            stream="JOBS",
            sequence=at,
            subject=f"jobs.line.main.x{at}",
            headers={"Nats-Msg-Id": "n"},
            stored=AT,
            **text_fields(body),
        )
        for at, body in enumerate(BODIES, 1)
    ]


def packed(found: list[ExportedRecord], *, said: int | None = None) -> bytes:
    header = ExportHeader(
        number=1,
        previous=None,
        marks={"JOBS": found[-1].mark},
        records=len(found) if said is None else said,
        sealed_at=AT,
    )
    return pack_export(header, [record_line(record) for record in found])


def test_any_bytes_come_back_and_equal_records_give_equal_files() -> None:
    data = packed(records())
    export = read_export(data)
    assert [record.body for record in export.records] == BODIES
    assert packed(export.records) == data == packed(records())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"", "cut off"),
        (lambda data: b"no gzip", "unpacked"),
        (lambda data: data[:-9], "cut off"),
        (lambda data: data + b"x", "more than it should"),
        (lambda data: gzip.compress(b""), "Expecting value"),
        (lambda data: gzip.compress(b"[]\n"), "JSON object"),
        (lambda data: gzip.compress(b'{"schema":2}\n'), "schema 2"),
        (lambda data: gzip.compress(b" " * (65 << 20)), "more than it should"),
        (lambda data: packed(records(), said=3), "header says 3"),
        (
            lambda data: gzip.compress(gzip.decompress(data).replace(b'{\\"a\\":1}', b"{}")),
            None,  # only the chain knows: the last record is as it was
        ),
        (lambda data: gzip.compress(gzip.decompress(data).replace(b"main.x4", b"main.x5")), "last"),
    ],
)
def test_what_is_not_whole_is_not_read(damage: Callable[[bytes], bytes], said: str | None) -> None:
    broken = damage(packed(records()))
    if said is None:
        assert read_export(broken).sha256 != read_export(packed(records())).sha256
        return
    with pytest.raises(ValueError, match=said):
        read_export(broken)
