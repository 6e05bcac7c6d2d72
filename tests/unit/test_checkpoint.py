"""A checkpoint is whole and what it says, or it is not used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.trainer import checkpoint
from shared.errors import CannotTrain
from shared.formats.adapter import AdapterShape, Tensors
from shared.formats.checkpoint import ADAPTER, ADAPTER_CONFIG, HEADER, OPTIMIZER
from tests.worker import newest_valid


def write(directory: Path, step: int, segment: str = "7", fence: int = 7) -> Path:
    header: dict[str, Any] = {
        "lineage": "main",
        "segment": segment,
        "fence": fence,
        "job": "j.1",
        "plan": "ab" * 32,
        "position": step,
        "global_step": step,
        "base_root": "cd" * 32,
        "seed": 0,
        "lora": AdapterShape(),
        "dtype": "float32",
        "micro_tokens": 100,
        "environment": {
            **dict.fromkeys(("torch", "transformers", "peft", "numpy", "python"), "1"),
            "device": "cpu",
            "threads": 1,
            "cpu": "x",
        },
    }
    adapter = {"a.lora_A.weight": np.full((2, 3), step, np.float32)}
    optimizer = {"a.lora_A.weight.step": np.array(step, np.float32)}
    return checkpoint.write_checkpoint(directory, header, adapter, optimizer, b"{}\n")[0]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    loaded = checkpoint.load(path)
    assert path.name == f"00000003-{loaded.header.id[:12]}"
    assert (loaded.adapter["a.lora_A.weight"] == 3).all()
    assert loaded.optimizer["a.lora_A.weight.step"].shape == ()
    assert loaded.header.tensors.adapter == checkpoint.tensors_sha256(loaded.adapter)
    assert not list(tmp_path.glob(".*"))


def test_the_hash_covers_name_type_shape_and_bytes() -> None:
    zeros = np.zeros((2, 3), np.float32)
    different: list[Tensors] = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.reshape(3, 2)},
        {"a": zeros.astype(np.int32)},
        {"a": zeros + 1},
        {"a": zeros, "b": zeros},
        {"a": np.zeros((), np.float32)},
        {"a": np.zeros((1,), np.float32)},
    ]
    assert len({checkpoint.tensors_sha256(t) for t in different}) == len(different)
    turned = {"a": np.asfortranarray(zeros)}
    assert checkpoint.tensors_sha256(turned) == checkpoint.tensors_sha256({"a": zeros})


FILES = (ADAPTER, ADAPTER_CONFIG, OPTIMIZER, HEADER)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_one_is_noticed_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: str
) -> None:
    before, newest = write(tmp_path, 3), write(tmp_path, 4)
    assert newest_valid(tmp_path, "7") == (newest, checkpoint.verify_checkpoint(newest))
    data = (newest / name).read_bytes()
    if damage == "gone":
        (newest / name).unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        (newest / name).write_bytes(flipped if damage == "changed" else data[:-1])
    if (name, damage) != (HEADER, "changed"):
        with pytest.raises(CannotTrain):
            checkpoint.verify_checkpoint(newest)
    found = newest_valid(tmp_path, "7")
    assert found is not None
    assert found[0] == before


def test_only_checkpoints_of_the_segment_count_and_a_later_fence_beats_a_later_step(
    tmp_path: Path,
) -> None:
    write(tmp_path, 50, segment="6", fence=6)
    write(tmp_path, 40, fence=7)
    live = write(tmp_path, 12, fence=9)
    found = newest_valid(tmp_path, "7")
    assert found is not None
    assert found[0] == live
    assert newest_valid(tmp_path, "8") is None


def test_the_newest_three_of_the_segment_stay(tmp_path: Path) -> None:
    other = write(tmp_path, 1, segment="6", fence=6)
    paths = [write(tmp_path, step) for step in range(2, 9)]
    (paths[-1] / OPTIMIZER).write_bytes(b"short")
    checkpoint.prune_checkpoints(tmp_path, "7", keep=paths[0])
    left = sorted(p for p in tmp_path.iterdir())
    assert left == sorted([other, paths[0], *paths[-4:]])


def test_what_a_killed_worker_left_is_swept(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    path.rename(tmp_path / f".{path.name}.123.tmp")
    assert newest_valid(tmp_path, "7") is None
    checkpoint.sweep_half_written(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_name_that_leads_outside_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    header = (path / HEADER).read_text()
    (path / HEADER).write_text(header.replace('"adapter_config.json"', '"../../x"'))
    with pytest.raises(CannotTrain):
        checkpoint.verify_checkpoint(path)
