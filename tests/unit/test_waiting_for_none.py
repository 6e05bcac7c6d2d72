"""The host never waits for the device within a step, as a machine without a GPU can show."""

import os

import pytest

from services.model.kernels import Way
from tests.forkserver import finished


@pytest.mark.slow
def test_a_step_never_asks_the_device_for_a_number() -> None:
    # In a process of its own: what stands in for the device is registered with torch for good.
    found = finished(["tests.fake_step"], {**os.environ, "OMP_NUM_THREADS": "1"}, 120)
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("the host never waits") == 2 * len(Way)
