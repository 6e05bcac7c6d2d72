"""The bundle of GPU checks says loudly that there is no GPU, and its table what was seen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from infra.compose import gpu_checks
from infra.compose.host import Host
from infra.compose.smoke import no_gpu, smoke_host
from tests.gpu.table import Line, Machine, pinned, table
from tests.worker import ROOT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_passes(tmp_path: Path) -> None:
    out = tmp_path / "RESULTS-gpu.md"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.gpu", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "NO GPU, NOTHING WAS CHECKED" in ended.stderr
    assert not out.exists()


def test_the_table_tells_each_check_and_whether_all_were_run() -> None:
    lines = [
        Line("test_a_thing[1|2]", ["3 GiB"], "pass", 1.25, ""),
        Line("test_another", [], "FAIL", 0.5, "assert\n1 < 0"),
    ]
    text = table(Machine({"GPU": "a card"}, ""), lines, 61.0, is_whole=False)
    assert "took 61 s: 1 pass, 1 FAIL. **It was ended before its last checks.**" in text
    assert "| GPU | a card |" in text
    assert "| a thing[1\\|2] | 3 GiB | pass | 1.2 |" in text
    assert "| another | assert 1 < 0 | FAIL | 0.5 |" in text


def test_pins_are_those_of_the_project() -> None:
    assert pinned()["torch"] == torch.__version__.partition("+")[0]
    assert gpu_checks.pytest() == f"pytest=={pytest.__version__}"


def test_smoke_says_why_it_leaves_the_gpu_out() -> None:
    with_gpu: Host = smoke_host({"DURAMEN_TORCH": "cuda"})
    without = smoke_host({"DURAMEN_TORCH": "cpu"})
    assert no_gpu(with_gpu, []) == ""
    assert "nothing was checked" in no_gpu(with_gpu, ["--no-gpu"])
    assert "nothing was checked" in no_gpu(without, [])
