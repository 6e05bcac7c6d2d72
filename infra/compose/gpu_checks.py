"""The checks of tests/gpu in the trainer's own image, on the GPU that it trains on.

pytest, which no image holds, is downloaded as wheels; the checks themselves have no network.
"""

import re
from pathlib import Path

from infra.compose import preflight
from infra.compose.engine import docker
from infra.compose.host import ROOT, Host

SECONDS = 480
TABLE = "RESULTS-gpu.md"


def run_gpu_checks(host: Host, folder: Path) -> None:
    """Run all checks, and leave their table in a folder. Raises HostRefused if one failed."""
    (folder / "wheels").mkdir(parents=True, exist_ok=True)
    image, user = host.image("trainer"), f"{host.uid}:{host.gid}"
    fetch = ("pip", "download", "--quiet", "--only-binary=:all:", "--dest", "/gpu/wheels", pytest())
    docker(*("run", "--rm", "--user", user, "-v", f"{folder}:/gpu", image), *fetch, seconds=300)
    docker(
        *("run", "--rm", "--gpus", f"device={preflight.gpu_of(host)}", "--network", "none"),
        *("-e", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "--user", user),
        *("-v", f"{ROOT / 'tests'}:/app/tests:ro", "-v", f"{folder}:/gpu"),
        *("-v", f"{ROOT / 'pyproject.toml'}:/app/pyproject.toml:ro", image),
        *("python", "-m", "tests.gpu", "--wheels", "/gpu/wheels", "--out", f"/gpu/{TABLE}"),
        seconds=SECONDS + 120,
    )


def pytest() -> str:
    """Return the requirement of pytest that pyproject.toml pins."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'"(pytest==[^"]+)"', text)
    assert found is not None
    return found[1]
