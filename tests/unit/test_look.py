"""What one process found in a check is what the other shows."""

from pathlib import Path

import pytest

from services.ctl.commands.doctor import looks_of_checkout
from shared.look import Look, looks_from_json, looks_to_json

LOOKS = [Look("ports", True, "9000"), Look("gpu", None, "not known"), Look("tls", False, "gone")]


def test_looks_survive_their_json() -> None:
    assert looks_from_json(looks_to_json(LOOKS)) == LOOKS
    assert [look.line().split()[1] for look in LOOKS] == ["ok", "--", "NO"]


OTHER = ["", "3", '{"what": "tls"}', '[{"what": "tls", "ok": true}]', '["tls"]']


@pytest.mark.parametrize("text", OTHER)
def test_any_other_text_is_refused_as_a_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"list of looks|Expecting value"):
        looks_from_json(text)


def test_a_checkout_of_another_version_does_not_end_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "__init__.py").touch()
    (tmp_path / "infra" / "compose.py").write_text("""print('[{"name": "tls", "right": true}]')""")
    found = looks_of_checkout(tmp_path)
    assert [(look.what, look.ok) for look in found] == [("host", None)]
    assert "cannot check this host" in found[0].found
