"""The images of others: which digest each had when it was pulled, and whether it has it still.

A tag can be moved to other bytes. `images.lock` has a line for each image that the compose files
and the Dockerfile name, with the digest that `make images-lock` saw after a real pull. No digest
is ever written from anywhere else; without one there is nothing to compare, which is said. Uses
only the standard library.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from infra.compose.engine import Compose, docker
from infra.compose.host import ROOT, Host, HostRefused
from shared.files import write_synced
from shared.look import Look

IMAGES_LOCK = ROOT / "infra" / "compose" / "images.lock"
PULL_SECONDS = 1800.0
OWN_PREFIX = "duramen-"


def read_lock(path: Path = IMAGES_LOCK) -> dict[str, str]:
    """Return the digest of each image, "" where none has been seen yet."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, digest = line.partition(" ")
        if name and not name.startswith("#"):
            found[name] = digest.strip()
    return found


def with_digests(text: str, seen: Mapping[str, str]) -> str:
    """Return the text of a lock with these digests in place of those that it has."""
    lines = [line.partition(" ")[0] if line[:1] != "#" else line for line in text.splitlines()]
    return "".join(
        f"{line} {seen[line]}".rstrip() + "\n" if line in seen else f"{line}\n" for line in lines
    )


def digests(image: str) -> set[str] | None:
    """Return the digests by which registries know an image here, or None if it is not here.

    An image that was built or loaded here has none.
    """
    try:
        told = docker("image", "inspect", "--format", "{{json .RepoDigests}}", image)
    except HostRefused:
        return None
    return {each.partition("@")[2] for each in json.loads(told) or []}


def against_lock(image: str, locked: str, found: set[str]) -> Look:
    """Return whether an image is the one of the lock."""
    if not found:
        return Look("image", None, f"{image} was made on this host, and is not compared")
    if not locked:
        text = f"{image} has no digest in {IMAGES_LOCK.name} yet, and is not compared"
        return Look("image", None, f"{text}: make images-lock")
    if locked in found:
        return Look("image", True, f"{image} {locked}")
    return Look(
        "image",
        False,
        f"{image} is {' and '.join(sorted(found))} here, but {IMAGES_LOCK.name} has {locked}. Its "
        "tag was moved, or what was pulled is not what its makers published. Find out which; if "
        f"the new one is right: docker image rm {image}, then make images-lock",
    )


def pulled(image: str) -> set[str]:
    """Pull an image and return its digests. Raises HostRefused."""
    docker("pull", "--quiet", image, seconds=PULL_SECONDS)
    return digests(image) or set()


def check_images(host: Host, compose: Compose) -> Iterable[Look]:
    """Pull what is missing and yield how each image of others compares with the lock.

    The image that ours are built on is looked at only where it is here. Raises HostRefused.
    """
    locked = read_lock()
    for image in sorted({*compose.output("config", "--images").splitlines()}):
        if not image.startswith(OWN_PREFIX):
            found = digests(image)
            yield against_lock(
                image, locked.get(image, ""), pulled(image) if found is None else found
            )
    base = host.settings.get("PYTHON_IMAGE") or python_image()
    if (found := digests(base)) is not None:
        yield against_lock(base, locked.get(base, ""), found)


def python_image() -> str:
    """Return the image that the Dockerfile builds on."""
    text = (ROOT / "services" / "Dockerfile").read_text(encoding="utf-8")
    return next(line.partition("=")[2] for line in text.splitlines() if "ARG PYTHON_IMAGE" in line)


def lock_images(_: Host, __: list[str]) -> int:
    """Pull every image of the lock and write the digest that each has. Raises HostRefused."""
    seen = {}
    for image in read_lock():
        found = pulled(image)
        if len(found) != 1:
            raise HostRefused(
                f"{image} has {len(found)} digests after its pull, so that none can be written: "
                f"docker image rm {image}, then make images-lock. {IMAGES_LOCK.name} is unchanged."
            )
        (seen[image],) = found
        print(f"{image} {seen[image]}", flush=True)
    text = with_digests(IMAGES_LOCK.read_text(encoding="utf-8"), seen)
    write_synced(IMAGES_LOCK, text.encode())
    return 0
