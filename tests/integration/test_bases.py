"""What becomes of base weights that were staged: kept three times, refused, or swept."""

from itertools import count
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from urllib3.exceptions import ProtocolError

from services.vault import bases
from shared.errors import StoreUnavailable
from shared.store.place import PRECIOUS, WORK
from tests.stack import Stack
from tests.vault_history import Forge, VaultProcess


class Cut:
    """A response whose connection is lost."""

    def read(self, size: int | None) -> bytes:
        raise ProtocolError(f"cut off before {size} bytes")

    def close(self) -> None:
        pass


async def test_a_base_with_a_pickle_or_a_cut_file_is_refused(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge = Forge(stack, lineage)
    vault.start()
    for extra, word in (
        ({"weights_bin": b"pickle"}, "refused"),
        ({"more_safetensors": save({"w": np.ones(100, np.float32)})[:-4]}, "cut off"),
    ):
        root = forge.stage_base(**extra)
        answer = await forge.answer(await forge.ask(command="base", base_root=root))
        assert answer["outcome"] == "void"
        assert word in answer["why"]
        assert not list(vault.copies().store.keys(PRECIOUS, f"bases/{root}/SHA256SUMS"))
        assert not list(vault.copies().store.keys(WORK, f"staging/bases/{root}/"))


@pytest.mark.parametrize(("place", "method"), [("archive", "read"), ("store", "read_hash")])
def test_a_base_that_is_finished_elsewhere_while_it_is_looked_at_is_no_lost_base(
    stack: Stack,
    lineage: str,
    vault: VaultProcess,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    method: str,
) -> None:
    """As a command and a version that waits for the same base do; the staging is emptied first
    after no place was found to hold it, then between choosing a source and opening it."""
    root = Forge(stack, lineage).stage_base()
    slow, quick = vault.copies(), vault.copies()
    look, looks = getattr(getattr(slow, place), method), iter((True,))

    def meanwhile(*args: Any) -> Any:
        try:
            return look(*args)
        finally:
            if next(looks, False):
                bases.store_base(quick, root)

    monkeypatch.setattr(getattr(slow, place), method, meanwhile)
    assert bases.store_base(slow, root).copies == 3
    assert next(looks, None) is None
    assert not list(slow.store.keys(WORK, f"staging/bases/{root}/"))


def test_a_store_that_goes_away_in_a_header_is_an_outage_and_the_upload_stays(
    stack: Stack, lineage: str, vault: VaultProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, copies = Forge(stack, lineage).stage_base(), vault.copies()
    opened, times = copies.store.open, count()

    def cut(bucket: Any, key: str, version_id: str | None = None) -> Any:
        is_header = key.endswith(".safetensors") and next(times) == 1  # it was hashed before
        return Cut() if is_header else opened(bucket, key, version_id)

    with monkeypatch.context() as patch:
        patch.setattr(copies.store, "open", cut)
        with pytest.raises(StoreUnavailable, match="cut off"):
            bases.store_base(copies, root)
    assert bases.store_base(copies, root).copies == 3


def test_an_upload_that_was_never_finished_is_swept_but_not_one_that_is_wanted(
    stack: Stack, lineage: str, vault: VaultProcess
) -> None:
    forge, copies = Forge(stack, lineage), vault.copies()
    left, asked = forge.stage_base(more_json=b"1"), forge.stage_base(more_json=b"2")

    def staged(root: str) -> bool:
        return bool(list(copies.store.keys(WORK, f"staging/bases/{root}/")))

    assert not {left, asked} & set(bases.sweep_staging(copies, set()))  # a day has not passed
    assert staged(left)
    everything = {key.split("/")[2] for key in copies.store.keys(WORK, "staging/bases/")}
    swept = bases.sweep_staging(copies, everything - {left}, older_seconds=-60)
    assert swept == [left]
    assert not staged(left)
    assert staged(asked)
