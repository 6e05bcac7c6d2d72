"""A zip archive with one dataset in it, which is read in place: no name in it is ever used as one.

What is beside the dataset (a README, a licence, what a Mac adds) is not looked at.
"""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from services.ingest.container import packing
from services.ingest.container.names import Container, container_of
from services.ingest.reading.row_error import RowError, Unreadable

MOST_MEMBERS = 10_000
SHOWN_MEMBERS = 5
EXPORT = "conversations.json"  # the chats, in the archive that a chat service exports
NOT_DATA = re.compile(
    r"(readme|licen[cs]e|changelog|citation|notice|dataset_infos?)\b.*", re.IGNORECASE
)
OFFICE = {
    "xl": "an Excel workbook: save the sheet as CSV",
    "word": "a Word document: save its text",
}
ENCRYPTED = 1  # bit of flag_bits
ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, NotImplementedError,
    RuntimeError, ValueError, OverflowError, LookupError,
)  # fmt: skip


class Member(NamedTuple):
    """One data file of an archive."""

    info: zipfile.ZipInfo
    container: Container


class ZippedDataset:
    """An open archive, and the members that are its dataset, in order."""

    def __init__(self, archive: zipfile.ZipFile, packed_bytes: int) -> None:
        self._archive, self._packed_bytes = archive, packed_bytes
        self.members = dataset_of(archive.infolist())

    def file(self, member: Member) -> BinaryIO:
        """Return the plain bytes of a member. Reading them raises Unreadable."""
        return packing.streamed(packing.bounded(self._pieces(member), self._packed_bytes))

    def copied(self, member: Member, target: Path) -> Path:
        """Copy a member to a file that is read at random places. Raises Unreadable, OSError."""
        with self.file(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
        return target

    def _pieces(self, member: Member) -> Iterator[bytes]:
        try:
            with self._archive.open(member.info) as file:
                while piece := file.read(packing.READ_BYTES):
                    yield piece
        except ZIP_ERRORS as error:
            raise packing.damaged_file("zip", str(error)[:200]) from error


@contextmanager
def opened_archive(path: Path) -> Iterator[ZippedDataset]:
    """Open a zip archive with one dataset in it. Raises Unreadable, OSError."""
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except ZIP_ERRORS as error:
            raise packing.damaged_file("zip", str(error)[:200]) from error
        with archive:
            yield ZippedDataset(archive, path.stat().st_size)


def dataset_of(infos: list[zipfile.ZipInfo]) -> list[Member]:
    """Return the members that are the archive's dataset: one, or one in numbered parts.

    Raises Unreadable.
    """
    if len(infos) > MOST_MEMBERS:
        raise archive_refused(f"The archive holds more than {MOST_MEMBERS} files.")
    files = [info for info in infos if not info.is_dir() and not is_beside(info.filename)]
    for info in files:
        check_member(info)
    found = [Member(i, c) for i in files if (c := container_of(i.filename)) is not None]
    chats = [m for m in found if PurePosixPath(m.info.filename).name.lower() == EXPORT]
    rows = [m for m in found if m.container.layout != "text"]
    found = chats or rows or found
    if not found:
        raise without_dataset(files)
    packed = [m for m in found if m.container.packing]
    if packed:
        raise archive_refused(
            f"In it, {shown(packed[:1])} is packed once more: unpack the archive first."
        )
    if len({parts_of(m.info.filename) for m in found}) > 1:
        raise archive_refused(
            f"The archive holds {len(found)} data files: {shown(found)}. An archive is one "
            "dataset. Unpack it, and put the files that are to be trained into the inbox."
        )
    return sorted(found, key=lambda m: (numbers_of(m.info.filename), m.info.filename))


def is_beside(name: str) -> bool:
    """Return whether a member is not data: hidden, of a Mac, a README."""
    path = PurePosixPath(name)
    hidden = any(p[:1] == "." and p.strip(".") for p in path.parts) or "__MACOSX" in path.parts
    return hidden or bool(NOT_DATA.fullmatch(path.name))


def check_member(info: zipfile.ZipInfo) -> None:
    """Check that a member is a plain file under a plain name. Raises Unreadable."""
    path = PurePosixPath(info.filename.replace("\\\\", "/"))
    name = f"`{info.filename[:80]}`"
    if path.is_absolute() or ".." in path.parts:
        raise archive_refused(f"The name {name} in it leads out of the archive.")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise archive_refused(f"{name} in it is a link or a device, not a file.")
    if info.flag_bits & ENCRYPTED:
        raise archive_refused(f"{name} in it is encrypted: pack the archive without a password.")


def parts_of(name: str) -> str:
    """Return a name without its numbers: those of the parts of one dataset are equal."""
    return re.sub(r"\d+", "0", name.lower())


def numbers_of(name: str) -> list[int]:
    return [int(digits[:18]) for digits in re.findall(r"\d+", name)]


def without_dataset(files: list[zipfile.ZipInfo]) -> Unreadable:
    folders = {PurePosixPath(info.filename).parts[0] for info in files}
    office = next((what for folder, what in OFFICE.items() if folder in folders), None)
    if office:
        return archive_refused(f"The archive is {office}.")
    names = ", ".join(f"`{info.filename[:40]}`" for info in files[:SHOWN_MEMBERS])
    return archive_refused(f"The archive holds no data file{': only ' + names if names else ''}.")


def shown(members: list[Member]) -> str:
    names = ", ".join(f"`{m.info.filename[:60]}`" for m in members[:SHOWN_MEMBERS])
    return names + (", …" if len(members) > SHOWN_MEMBERS else "")


def archive_refused(message: str) -> Unreadable:
    return Unreadable(RowError("file", "archive", message))
