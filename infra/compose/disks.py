"""The disks that a folder lies on, below partitions, volumes and file systems.

Two partitions of one disk, two subvolumes, two datasets of one pool are two file systems and die
together. The kernel's own view is followed down (sysfs(5), `mountinfo` in proc_pid_mountinfo(5)).
Uses only the standard library.
"""

import os
from collections.abc import Mapping
from pathlib import Path

BLOCKS = Path("/sys/dev/block")
MOUNTS = Path("/proc/self/mountinfo")


def there(folder: Path) -> Path:
    """Return the folder, or the nearest existing one above it, in which it would be made."""
    while not os.path.exists(folder):  # noqa: PTH110 - Path's own raises where a parent is closed
        folder = folder.parent
    return folder


def disks_of(folder: Path) -> frozenset[str]:
    """Return the names of the disks (`sda`), pools or servers that hold a folder.

    The folder need not exist yet. Empty if the disks cannot be found out.
    """
    folder = there(folder).resolve()
    found = below(folder.stat().st_dev)
    if found:
        return found
    source, kind = mounted(folder)  # a file system that gives itself numbers: btrfs, ZFS, NFS
    if source.startswith("/dev/") and Path(source).exists():
        return below(Path(source).stat().st_rdev)
    if kind == "zfs":
        return frozenset({f"pool {source.partition('/')[0]}"})
    server, separator, _ = source.removeprefix("//").partition("/" if source[:2] == "//" else ":")
    return frozenset({f"server {server}"}) if separator else frozenset()


def below(device: int) -> frozenset[str]:
    """Return the disks under a block device; empty if the number is not one of a block device."""
    number = f"{os.major(device)}:{os.minor(device)}"
    block = (BLOCKS / number).resolve()
    if not block.is_dir():
        return frozenset()
    if (block / "partition").exists():
        block = block.parent
    file = block / "loop" / "backing_file"
    if file.exists():
        return disks_of(Path(file.read_text().strip()))
    parts = [(part / "dev").read_text().strip() for part in block.glob("slaves/*")]
    numbers = [part.partition(":") for part in parts]
    under = [below(os.makedev(int(major), int(minor))) for major, _, minor in numbers]
    return frozenset().union(*under) if under else frozenset({block.name})


def mounted(folder: Path) -> tuple[str, str]:
    """Return (source, type) of the file system at a folder, as it was mounted."""
    best, found = -1, ("", "")
    for line in MOUNTS.read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))
        kind, source = right.split()[:2]
        if folder.is_relative_to(point) and len(point.parts) >= best:  # the last one lies on top
            best, found = len(point.parts), (source, kind)
    return found


def domains(places: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Return groups of places that fail together.

    A place whose disks are unknown counts as lying with the first.
    """
    groups: list[tuple[list[str], frozenset[str]]] = []
    for name, disks in sorted(places.items(), key=lambda place: not place[1]):  # unknown ones last
        shared = [g for g in groups if g[1] & disks] if disks else groups[:1]
        names = [n for g in shared for n in g[0]]
        groups = [g for g in groups if g not in shared]
        groups.append(([*names, name], disks.union(*(g[1] for g in shared))))
    order = list(places)
    named = [sorted(names, key=order.index) for names, _ in groups]
    return sorted(named, key=lambda names: order.index(names[0]))
