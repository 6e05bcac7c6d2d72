"""The host never waits for the device within a step, as a machine without a GPU can show."""

import os
import subprocess
import sys

from services.model.kernels import Way
from tests.worker import ROOT


def test_a_step_never_asks_the_device_for_a_number() -> None:
    # In a process of its own: what stands in for the device is registered with torch for good.
    found = subprocess.run(
        [sys.executable, "-m", "tests.fake_step"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("the host never waits") == 2 * len(Way)
