import os
from pathlib import Path

import pytest

from services.herald.alerts import Standing
from services.herald.happenings import Happening
from services.herald.notify import Address
from services.herald.outlet import Outlet


async def deliver(_: Happening) -> None:
    raise AssertionError("nothing is told here")


def test_marks_of_one_address_are_synced_each_by_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    address = Address("json://127.0.0.1:9", 1)
    Outlet(address.name, deliver, lambda _: True, tmp_path).begin_at({"EVT": 3})
    told = Standing(address, tmp_path, 180.0)
    told.standing["disk"] = "full"
    told._keep()
    written = [name for name in synced if name != tmp_path.name]
    assert len(written) == len(set(written)) == 2
    assert Standing(address, tmp_path, 180.0).standing == {"disk": "full"}
    assert sorted(f.suffix for f in tmp_path.iterdir()) == [".alerts", ".json"]
