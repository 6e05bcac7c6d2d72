"""Each image has all that its program imports: its own folders and packages, and no others."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from infra.compose.subset import canonical_name, subset

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
# As services/Dockerfile: the extras and packages of an image, and the folders that it holds.
IMAGES = {
    "ingest": (["core", "ingest"], ["services.ingest", "shared"]),
    "vault": (["core"], ["services.vault", "shared"]),
    "evolution": (["core", "evolution"], ["services.evolution", "shared"]),
    "herald": (["core", "herald"], ["services.herald", "shared"]),
    "ctl": (["core", "ctl", "huggingface-hub"], ["services.ctl", "infra", "shared"]),
    "bootstrap": (["core", "bootstrap"], ["infra", "shared"]),
}
# Imports the modules that are named, while all others of the project and of packages are missing.
IMPORTER = """
import importlib, json, sys
given = json.load(sys.stdin)
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        own = top in ("services", "shared", "infra")
        there = any(name == f or name.startswith(f + ".") or f.startswith(name + ".")
                    for f in given["folders"])
        if (own and not there) or top in given["missing"]:
            raise ModuleNotFoundError(f"No module named {name!r} in this image", name=name)
sys.meta_path.insert(0, Missing())
for name in given["modules"]:
    importlib.import_module(name)
"""


def modules_below(folder: str) -> list[str]:
    names = []
    for path in sorted((ROOT / folder.replace(".", "/")).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_what_its_program_imports(image: str) -> None:
    extras, folders = IMAGES[image]
    known = [name for name in extras if name == "core" or name in PROJECT["optional-dependencies"]]
    packages = [name for name in extras if name not in known]
    blocks = subset(PROJECT, LOCK, [*known, *packages])
    there = {canonical_name(block) for block in blocks}
    missing = [
        module
        for module, makers in packages_distributions().items()
        if not {canonical_name(maker) for maker in makers} & there
    ]
    own = "infra.servers.bootstrap" if image == "bootstrap" else folders[0]
    modules = [own] if image == "bootstrap" else modules_below(own)
    given = {"folders": folders, "missing": missing, "modules": modules}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTER],
        cwd=ROOT,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-1500:]


def test_the_images_of_this_test_are_those_of_the_dockerfile() -> None:
    made = (ROOT / "services/Dockerfile").read_text()
    for image in IMAGES:
        assert f" AS {image}-packages\n" in made, image
