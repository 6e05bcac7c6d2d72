"""Fixtures of the tests on real servers: a service with what it needs around it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.inbox import Box
from tests.services import House
from tests.stack import Stack
from tests.vault_history import VaultProcess


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that fails shows what its services said: it may not fail again."""
    report = yield
    house = getattr(item, "funcargs", {}).get("house")
    if report.when == "call" and report.failed and isinstance(house, House):
        report.sections += [(f"log of {name}", log) for name, log in house.ends_of_logs().items()]
    return report


@pytest.fixture
def box(stack: Stack, lineage: str, tmp_path: Path) -> Box:
    return Box(House(stack), lineage, tmp_path)


@pytest.fixture
def own_box(own_stack: Stack, lineage: str, tmp_path: Path) -> Box:
    return Box(House(own_stack), lineage, tmp_path)


@pytest.fixture
def house(own_stack: Stack) -> House:
    """Servers of one test: a trainer looks at every lineage that there is."""
    return House(own_stack)


@pytest.fixture
def vault(stack: Stack) -> Iterator[VaultProcess]:
    made = VaultProcess(stack)
    yield made
    made.kill()
