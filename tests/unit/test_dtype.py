"""The number format is measured on what is here, and again once that is something else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer import device
from services.trainer.worker import number_format


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A measurement of this CPU."""
    monkeypatch.setattr(number_format, "FORMAT_SECONDS", 0.01)
    path = tmp_path / "dtype.json"
    path.write_text(json.dumps(number_format.measure_formats("cpu")))
    return path


def test_a_measurement_holds_for_its_own_device_and_torch_only(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not device.holds(kept.with_name("none.json"), "cpu")
    assert device.holds(kept, "cpu")
    monkeypatch.setattr(device, "gpu_name", lambda: "a card")
    assert device.holds(kept, "cpu")
    assert not device.holds(kept, "auto")
    monkeypatch.setattr(device, "gpu_name", lambda: "")
    assert device.holds(kept, "auto")
    change(kept, here={**device.here("cpu"), "torch": "1.0.0"})
    assert not device.holds(kept, "cpu")


def test_a_card_that_torch_cannot_use_is_measured_around_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(number_format, "FORMAT_SECONDS", 0.01)
    monkeypatch.setattr(device, "gpu_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "dtype.json"
    path.write_text(json.dumps(number_format.measure_formats("auto")))
    assert json.loads(path.read_text())["device"] == "cpu"
    assert device.holds(path, "auto")


def test_an_earlier_measurement_that_does_not_say_what_it_was_made_on_is_made_again(
    kept: Path,
) -> None:
    found = json.loads(kept.read_text())
    kept.write_text(json.dumps({"dtype": found["dtype"], "device": found["device"]}))
    assert not device.holds(kept, "cpu")


def test_the_cpu_is_not_measured_where_a_gpu_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="DURAMEN_DEVICE=cuda, but torch can use no GPU"):
        number_format.measure_formats("cuda")


def change(kept: Path, **fields: Any) -> None:
    kept.write_text(json.dumps({**json.loads(kept.read_text()), **fields}))
