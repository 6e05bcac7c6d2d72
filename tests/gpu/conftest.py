"""Fixtures of the GPU checks, and the lines that each of them adds to the table.

The bundle loads this file by name (`-p tests.gpu.conftest`), so that it needs nothing of the other
tests' fixtures and their servers.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.bases import make_base
from tests.tiny import make_tiny

RECORDS = "DURAMEN_GPU_RECORDS"  # names the file of the lines; unset outside the bundle
ENDS = "DURAMEN_GPU_ENDS"  # when the bundle must have ended, in seconds since the epoch
HERE = Path(__file__).parent
Figures = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder `gpu`, and skip them where there is no card."""
    no_card = pytest.mark.skip(reason="not run: no CUDA device here")
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(no_card)


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute as the worker does, and give back what a check held."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the worker sets it
    yield
    torch.cuda.empty_cache()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Call it with what was measured: the words go into the table, and to the terminal."""
    found: list[str] = []
    request.node.user_properties.append(("figures", found))

    def add(words: str) -> None:
        found.append(words)
        print(words, flush=True)

    return add


@pytest.fixture
def seconds_needed() -> Callable[[float], None]:
    """Call it with what a long check takes: it is skipped where the bundle would end too late."""

    def ask(seconds: float) -> None:
        ends = float(os.environ.get(ENDS, "inf"))
        if time.time() + seconds > ends:
            pytest.skip(f"not run: takes about {seconds:.0f} s, and the time was up")

    return ask


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny model whose heads are of a size that the card's kernels take."""
    return make_tiny(tmp_path / "base", head_dim=64, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a random base of a named size, made once."""
    made: dict[str, Path] = {}

    def find(size: str) -> Path:
        if size not in made:
            made[size] = make_base(tmp_path_factory.mktemp(f"base-{size}"), size)
        return made[size]

    return find


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write one line of the table for each check that ended, whether it passed or not."""
    file = os.environ.get(RECORDS)
    told = report.when == "call" or report.outcome != "passed"
    if file is None or not told:
        return
    line: dict[str, Any] = {
        "check": report.nodeid.rpartition("::")[2],
        "figures": dict[str, Any](report.user_properties).get("figures", []),
        "verdict": {"passed": "pass", "failed": "FAIL", "skipped": "not run"}[report.outcome],
        "seconds": report.duration,
        "why": why_of(report),
    }
    with Path(file).open("a", encoding="utf-8") as table:
        table.write(json.dumps(line) + "\n")


def why_of(report: pytest.TestReport) -> str:
    """Return the sentence of a skip or of a failure; empty if the check passed."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message)[:600] if crash is not None else ""
