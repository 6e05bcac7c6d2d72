"""An image of others is the one of the lock, or is said not to be."""

import json
import os
import re
from pathlib import Path

import pytest

from infra.compose import images
from infra.compose.engine import Compose
from infra.compose.host import ROOT, Host, HostRefused
from infra.compose.images import IMAGES_LOCK, against_lock, lock_images, python_image, read_lock
from infra.compose.lifecycle import refuse_other_images

ONE, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
# Says of images what $DOCKER_KNOWS says: {image: [digest]}; a pull of $DOCKER_PULLS adds to it.
DOCKER = """\
#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
known = Path(os.environ["DOCKER_KNOWS"])
have = json.loads(known.read_text())
words = sys.argv[1:]
if words[:2] == ["image", "inspect"]:
    if words[-1] not in have:
        sys.exit("No such image")
    print(json.dumps([f"x@{digest}" for digest in have[words[-1]]]))
elif words[0] == "pull":
    have[words[-1]] = json.loads(os.environ["DOCKER_PULLS"])
    known.write_text(json.dumps(have))
elif words[0] == "compose":
    print("duramen-vault:1\\nnats:2.15.1-alpine")
"""


def test_the_lock_has_each_image_of_others_and_no_image_line_a_digest() -> None:
    named = {python_image()}
    for file in ROOT.glob("compose*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert "@sha256" not in text, file
        found = re.findall(r"^ *image: (?:\$\{OBJECT_STORE_IMAGE:-)?([^\s}]+)", text, re.MULTILINE)
        named |= {image for image in found if not image.startswith("duramen-")}
    assert set(read_lock()) == named
    assert all(re.fullmatch(r"(sha256:[0-9a-f]{64})?", each) for each in read_lock().values())


def test_uv_of_the_images_is_verified_by_the_hashes_of_the_lock() -> None:
    lines = (ROOT / "services" / "uv.lock").read_text(encoding="utf-8").splitlines()[1:]
    assert "\n".join(lines) in (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert lines[0].startswith("uv==")
    assert any("--hash=sha256:" in line for line in lines)


@pytest.mark.parametrize(
    ("locked", "found", "ok", "words"),
    [
        (ONE, {ONE}, True, ONE),
        (ONE, {OTHER, ONE}, True, ONE),
        (ONE, {OTHER}, False, f"{OTHER} here, but images.lock has {ONE}"),
        ("", {ONE}, None, "no digest in images.lock yet"),
        (ONE, set(), None, "made on this host"),
    ],
)
def test_an_image_is_compared(locked: str, found: set[str], ok: bool | None, words: str) -> None:
    look = against_lock("nats:1", locked, found)
    assert look.ok is ok
    assert words in look.found


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a lock without digests, beside an engine that is a script."""
    script, known, lock = tmp_path / "docker", tmp_path / "known.json", tmp_path / "images.lock"
    script.write_text(DOCKER)
    script.chmod(0o755)
    known.write_text("{}")
    lock.write_text("# kept\nnats:2.15.1-alpine\npython:3.11-slim-bookworm\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_KNOWS", str(known))
    monkeypatch.setenv("DOCKER_PULLS", json.dumps([ONE]))
    monkeypatch.setattr(images, "IMAGES_LOCK", lock)
    monkeypatch.setattr(read_lock, "__defaults__", (lock,))
    return lock


def test_a_digest_is_written_after_a_pull_and_another_one_is_refused_with_both(
    lock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host.load({})
    compose = Compose({})
    refuse_other_images(host, compose)  # it pulls, and has nothing to compare with
    assert "no digest in images.lock yet" in capsys.readouterr().out
    assert lock_images(host, []) == 0
    assert (
        lock.read_text() == f"# kept\nnats:2.15.1-alpine {ONE}\npython:3.11-slim-bookworm {ONE}\n"
    )
    refuse_other_images(host, compose)
    known = Path(os.environ["DOCKER_KNOWS"])
    known.write_text(json.dumps({"nats:2.15.1-alpine": [OTHER]}))
    with pytest.raises(HostRefused, match=f"{OTHER} here, but images.lock has {ONE}"):
        refuse_other_images(host, compose)
    known.write_text(json.dumps({"nats:2.15.1-alpine": []}))  # built here
    refuse_other_images(host, compose)


def test_a_pull_without_a_digest_leaves_the_lock_as_it_is(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lock.read_text()
    monkeypatch.setenv("DOCKER_PULLS", "[]")
    with pytest.raises(HostRefused, match="has 0 digests after its pull"):
        lock_images(Host.load({}), [])
    assert lock.read_text() == before
    assert IMAGES_LOCK.name == lock.name
