"""The part of requirements.lock that one image needs: `python subset.py NAME… > some.lock`.

A NAME is an extra of pyproject.toml, or a package. The lock says for each package who needs it ("#
via"), and by that all that the extra's own packages need is found. Uses only the standard library:
it runs before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def canonical_name(requirement: str) -> str:
    """Return the name in a requirement, as the lock writes it. Raises ValueError."""
    found = NAME.match(requirement)
    if found is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def blocks(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Return, for each package, its lines and the packages that need it."""
    found: dict[str, tuple[str, set[str]]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        vias = re.findall(r"# via (.*)$", block, flags=re.MULTILINE)
        wanted_by = {canonical_name(via) for line in vias for via in line.split(", ")}
        found[canonical_name(block)] = (block, wanted_by)
    return found


def subset(project: dict[str, object], lock: str, names: list[str]) -> list[str]:
    """Return the blocks of the lock for extras and packages, and for all that these need.

    `core` stands for the project's own dependencies. Raises ValueError for a name that is not in
    the lock.
    """
    table: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    core: list[str] = project["dependencies"]  # type: ignore[assignment]
    packages = blocks(lock)
    wanted = set()
    for name in names:
        direct = core if name == "core" else table.get(name, [name])
        wanted |= {canonical_name(requirement) for requirement in direct}
    unknown = wanted - set(packages) - {"torch"}  # torch is not in the lock: its builds differ
    if unknown:
        raise ValueError(f"not in requirements.lock: {', '.join(sorted(unknown))}")
    size = 0
    while size != len(wanted):
        size = len(wanted)
        wanted |= {name for name, (_, wanted_by) in packages.items() if wanted_by & wanted}
    return [block for name, (block, _) in packages.items() if name in wanted]


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    print("\n".join(subset(project, Path("requirements.lock").read_text(), sys.argv[1:])))


if __name__ == "__main__":
    main()
