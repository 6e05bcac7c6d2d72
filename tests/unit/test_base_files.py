"""What of a model directory becomes a base."""

import json
from pathlib import Path

import pytest

from services.ctl.base import files_of
from shared.errors import UsageError
from tests.tiny import make_tiny

INDEX = "model.safetensors.index.json"


def test_the_same_weights_in_another_form_are_left_out(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    weights = next(base.glob("*.safetensors"))
    weights.rename(base / "part-1.safetensors")
    (base / "consolidated.safetensors").write_bytes(b"the same once more")
    (base / INDEX).write_text(json.dumps({"weight_map": {"w": "part-1.safetensors"}}))
    found = files_of(base)
    assert [p for p in found if p.endswith(".safetensors")] == ["part-1.safetensors"]
    assert {INDEX, "config.json", "tokenizer.json"} <= set(found)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": 1}', "{"])
def test_an_index_that_names_nothing_is_refused(tmp_path: Path, index: str) -> None:
    base = make_tiny(tmp_path / "base")
    (base / INDEX).write_text(index)
    with pytest.raises(UsageError, match=INDEX):
        files_of(base)


def test_a_directory_without_its_weights_is_refused(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    (base / INDEX).write_text(json.dumps({"weight_map": {"w": "elsewhere.safetensors"}}))
    with pytest.raises(UsageError, match="holds no weights"):
        files_of(base)
