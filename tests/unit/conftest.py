"""Fixtures of the tests that run without servers."""

from pathlib import Path

import pytest

from tests.tiny import shared_tiny
from tests.worker import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, shared_tiny())
