"""A base that is made to take all memory or time ends a child, and its job, and nothing else.

That an honest base passes, each test of a worker shows.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.trainer.protocol import Spec
from services.trainer.supervisor.run import memory_watch
from services.trainer.supervisor.run.memory_watch import most_resident, watch_memory
from services.trainer.worker.preparation import Limits, prepare_apart
from shared.errors import CannotTrain
from shared.memory_estimate import GIB
from tests.tiny import shared_tiny
from tests.worker import Job

SMALL = Limits(memory_bytes=512 << 20, cpu_seconds=20, wall_seconds=300)
EIGHT_TIMES_SIXTEEN = {
    "type": "Sequence",
    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 16}] * 8,
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_tiny(), tmp_path / "base"))


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def prepared(base: Path, tmp_path: Path, limits: Limits = SMALL) -> None:
    prepare_apart(Spec.model_validate(Job(tmp_path, base).spec("x")), limits)


@pytest.mark.slow
def test_a_tokenizer_that_takes_all_memory_is_refused(base: Path, tmp_path: Path) -> None:
    change(base / "tokenizer.json", normalizer=EIGHT_TIMES_SIXTEEN)
    with pytest.raises(CannotTrain, match="its tokenizer reads 100 rows, that takes more than"):
        prepared(base, tmp_path)


@pytest.mark.slow
def test_a_network_of_endless_layers_is_refused(base: Path, tmp_path: Path) -> None:
    change(base / "config.json", num_hidden_layers=10**8)
    with pytest.raises(CannotTrain, match="its network is built without weights, that takes more"):
        prepared(base, tmp_path, Limits(SMALL.memory_bytes, cpu_seconds=2))


def test_a_process_that_grows_without_end_is_ended_by_its_resident_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_watch, "MEMORY_LOOK_SECONDS", 0.05)
    code = "x = bytearray(256 << 20); import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        watch = watch_memory(process.pid, 128 << 20)
        why = asyncio.run(asyncio.wait_for(watch, 60))
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "where 128 MiB would be much already, and was ended" in why


def test_the_most_that_a_worker_may_hold_grows_with_what_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"x" * 1000)
    assert most_resident(2 * GIB, file) == 10 * GIB + 40_000
    assert most_resident(None, file) > 64 * GIB
