"""A copy of the bus as one file, and the way back.

    python -m infra.servers.nats.backup pack DATA FILE.tar      of a server that does not run
    python -m infra.servers.nats.backup unpack FILE.tar DATA    checks the file first
    python -m infra.servers.nats.backup check MARKS…            does it lack what was seen?

Beside FILE.tar lies FILE.tar.sha256, as sha256sum writes it. What a bus of an earlier day does not
hold was acknowledged to somebody: each service keeps the last sequence it saw (marks.json) and
writes nothing to a bus that lacks it. `check` says so before they are started.
"""

import asyncio
import os
import shutil
import sys
import tarfile
from pathlib import Path

from infra.secrets.secrets import Secrets
from infra.servers.bootstrap import BootstrapSettings
from shared.bus.client import Bus
from shared.errors import BusWentBack, DuramenError, Location, ObjectDamaged
from shared.files import sha256_file, whole_file, write_synced

INCOMING = ".incoming"


def pack_folder(data: Path, archive: Path) -> None:
    """Write `archive` and its .sha256, owned by the folder's owner.

    Both appear whole, the sum last.
    """
    status = archive.parent.stat()
    owner = status.st_uid, status.st_gid
    with whole_file(archive, owner=owner) as file, tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(data, arcname=".", filter=_without_incoming)
    line = f"{sha256_file(archive)}  {archive.name}\n"
    write_synced(sum_of(archive), line.encode(), owner=owner)


def unpack_folder(archive: Path, data: Path) -> None:
    """Replace all that is in `data`; the new files belong to its owner.

    Raises ObjectDamaged or OSError before anything is replaced.
    """
    wanted = sum_of(archive).read_text().split()[0]
    found = sha256_file(archive)
    if found != wanted:
        raise ObjectDamaged(Location("", "", str(archive)), wanted, found)
    incoming = data / INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    with tarfile.open(archive) as tar:
        # Where Python is old it is left out: the sum says that the file is ours.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(incoming)  # noqa: S202 - a file of ours, by its sum
    for path in (incoming, *incoming.rglob("*")):
        _own(path, data.stat())
    for old in data.iterdir():
        if old != incoming:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for new in incoming.iterdir():
        new.rename(data / new.name)
    incoming.rmdir()
    os.sync()


async def check_marks(
    url: str, secrets: Secrets, marks: list[Path], ca: Path | None = None
) -> None:
    """Compare the running bus with each folder's marks.json. Raises BusWentBack."""
    for folder in marks:
        async with Bus(url, secrets.seed_file("admin"), "admin", folder, ca) as bus:
            await bus.check_marks()


def sum_of(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.sha256")


def _without_incoming(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.split("/")[1:2] == [INCOMING] else member


def _own(path: Path, owner: os.stat_result) -> None:
    """Give a file to `owner` if this is root, so that its owner can read and write it."""
    if os.getuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def main(words: list[str]) -> int:
    match words:
        case ["pack", data, archive]:
            pack_folder(Path(data), Path(archive))
        case ["unpack", archive, data]:
            unpack_folder(Path(archive), Path(data))
        case ["check", *folders]:
            settings = BootstrapSettings()
            secrets = Secrets(settings.secrets_dir)
            asyncio.run(
                check_marks(
                    settings.nats_url, secrets, [Path(f) for f in folders], settings.nats_ca
                )
            )
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BusWentBack as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except (DuramenError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
