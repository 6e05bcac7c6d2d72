"""What a stranger's safetensors header may do to who reads it: be refused, in little time."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from services.trainer.worker.base_check import parameters
from shared.errors import CannotTrain, UsageError
from shared.formats.model_files import read_header

NESTED = b"[" * 100_000
TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def of(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def shaped(shape: Any) -> bytes:
    return of(json.dumps({"w": {**TENSOR, "shape": shape}}).encode(), bytes(8))


HOSTILE = {
    "nothing": b"",
    "a length alone": b"\x09" + bytes(7),
    "a length beyond the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "a list": of(b"[]"),
    "nested": of(NESTED),
    "no text": of(b"\xff" * 9),
    "a tensor that is a number": of(b'{"w":1}'),
    "a tensor without a shape": of(b'{"w":{}}'),
    "a shape of words": shaped(["a"]),
    "a shape below nothing": shaped([-1]),
    "a shape of truth": shaped([True]),
    "a shape that takes hours": shaped([10**4000] * 100),
    "many dimensions": shaped([2] * 100_000),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused_by_every_reader(what: str, tmp_path: Path) -> None:
    data, path = HOSTILE[what], tmp_path / "w.safetensors"
    path.write_bytes(data)
    for size in (None, len(data)):
        with pytest.raises(UsageError, match=r"w\.safetensors"):
            read_header(io.BytesIO(data), path.name, size)
    with pytest.raises(CannotTrain, match=r"w\.safetensors"):
        parameters(path)


def test_a_file_whose_tensors_do_not_fill_it_is_refused_where_it_shall_be_whole() -> None:
    good = save({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float16)})
    shapes = {"a": [2, 3], "b": [5]}
    tensors = read_header(io.BytesIO(good), "w", len(good), whole=True)
    assert {name: entry["shape"] for name, entry in tensors.items()} == shapes
    overlap = json.dumps({"v": TENSOR, "w": TENSOR}).encode()
    for bad, why in (
        (good[:-2], "cut off"),
        (of(overlap, bytes(8)), "overlap"),
        (shaped([3]), "as its shape says"),
        (of(b'{"w":{"shape":[2],"dtype":"F32"}}'), "cannot be read"),
    ):
        assert read_header(io.BytesIO(bad), "w", len(bad))
        with pytest.raises(UsageError, match=why):
            read_header(io.BytesIO(bad), "w", len(bad), whole=True)
