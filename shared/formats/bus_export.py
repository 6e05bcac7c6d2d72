"""An exported part of the bus: the records of JOBS, CTL and EVT as one compressed file.

Such a file is gzip of JSON lines: a header, then each record. A header names the SHA-256 of the
file before it, so that the newest file vouches for all of them.
"""

import base64
import gzip
import zlib
from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime, Field

from shared.files import sha256_bytes
from shared.formats.canonical import CanonicalFile, Part, canonical_json
from shared.protocol.names import Sha256

EXPORTED_STREAMS = ("JOBS", "CTL", "EVT")
MOST_EXPORT_BYTES = 64 << 20  # unpacked; what is written has 8 MiB, and one round of reading
GZIP_WINDOW = 31


class ExportMark(Part):
    """The last record of a stream that was exported: its sequence, and the hash of what it says."""

    last: int = Field(ge=1)
    sha256: Sha256


class ExportHeader(CanonicalFile):
    """The first line of an exported file.

    `number` counts the files from 1, `previous` is the SHA-256 of the one before, as it is stored.
    `marks` say, by stream, how far this file and those before it go. `sealed_at` is None while the
    file is the tail, which is replaced as it grows.
    """

    kind: Literal["bus_export"] = "bus_export"
    number: int = Field(ge=1)
    previous: Sha256 | None
    marks: dict[str, ExportMark]
    records: int = Field(ge=0)
    sealed_at: AwareDatetime | None


class ExportedRecord(Part):
    """One message of a stream. What is not UTF-8 is in `base64`, anything else in `data`."""

    stream: str
    sequence: int = Field(ge=1)
    subject: str
    headers: dict[str, str]
    stored: AwareDatetime | None
    data: str | None = None
    base64: str | None = None

    @property
    def body(self) -> bytes:
        """Return the bytes of the message, as they were sent."""
        return base64.b64decode(self.base64) if self.base64 else (self.data or "").encode()

    @property
    def mark(self) -> ExportMark:
        return export_mark(self.sequence, self.subject, self.body)


@dataclass(frozen=True)
class BusExport:
    """An exported file that was read: its header, its records, and the hash of the stored bytes."""

    header: ExportHeader
    records: list[ExportedRecord]
    sha256: str


def export_mark(sequence: int, subject: str, data: bytes) -> ExportMark:
    """Return the mark of a message; when it was stored does not count, since that is not said."""
    return ExportMark(last=sequence, sha256=sha256_bytes(subject.encode() + b"\n" + data))


def text_fields(data: bytes) -> dict[str, str]:
    """Return the fields of an ExportedRecord that hold these bytes."""
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def record_line(record: ExportedRecord) -> bytes:
    """Return the line that holds a record."""
    return canonical_json(record.model_dump(mode="json", exclude_none=True)) + b"\n"


def pack_export(header: ExportHeader, lines: list[bytes]) -> bytes:
    """Return the bytes of a file; it holds no time but those that it says."""
    return gzip.compress(header.to_bytes() + b"\n" + b"".join(lines), mtime=0)


def read_export(data: bytes) -> BusExport:
    """Read an exported file. Raises ValueError for what is not one, whole and as it says."""
    unpacker = zlib.decompressobj(GZIP_WINDOW)
    try:
        text = unpacker.decompress(data, MOST_EXPORT_BYTES)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("it is cut off, or has more than it should")
    first, *lines = text.split(b"\n")[:-1] or [b""]
    header = ExportHeader.from_bytes(first)
    records = [ExportedRecord.model_validate_json(line) for line in lines]
    if len(records) != header.records:
        raise ValueError(f"it has {len(records)} records, its header says {header.records}")
    for stream in {record.stream for record in records}:
        newest = next(record for record in reversed(records) if record.stream == stream)
        if header.marks.get(stream) != newest.mark:
            raise ValueError(f"its last record of {stream} is not the one that its header names")
    return BusExport(header, records, sha256_bytes(data))
