"""What waits in the inbox, and why, is in status, queue list and doctor, also as JSON."""

import json
import unicodedata

from services.ctl.views.inbox_waits import inbox_of
from shared.ledger.control import observed_all
from tests.command_line import duramen
from tests.inbox import SECONDS, Box, row
from tests.services import until


async def test_what_waits_in_the_inbox_is_told_wherever_one_looks(own_box: Box) -> None:
    box, stack = own_box, own_box.house.stack
    (box.root / "stuff").mkdir()
    box.drop("Data.yaml", b"epochs: 1\n")
    box.drop("half.jsonl", b'{"prompt": "never clo')
    box.drop("now.jsonl.part", row(1))
    (box.root / "Low").mkdir()
    (box.root / "low").symlink_to("gone")
    expected = {
        "stuff/": "it is a folder",
        "Low/": "rename it to low",
        "low/": "which ingest cannot find",
        f"@{box.lineage}/Data.yaml": "waits for its data file, such as Data.jsonl",
        f"@{box.lineage}/half.jsonl": "line break; read as it is once it has not changed for 600 s",
        f"@{box.lineage}/now.jsonl.part": "still being written (.part)",
    }
    with box.running({"unfinished_seconds": 600.0}):
        async with box.house.bus("ctl") as bus:

            async def told() -> dict[str, str] | None:
                seen = inbox_of(await observed_all(bus, "ingest"))
                files = {f.file: f.why for f in seen.inbox.files} if seen and seen.inbox else {}
                whys = [words in files.get(path, "") for path, words in expected.items()]
                return files if all(whys) and len(files) == len(expected) else None

            files = await until(told, "all that waits is observed", SECONDS)
        shown = json.loads(duramen(stack, "status", "--json").stdout)
        assert {f["file"]: f["why"] for f in shown["inbox"]["files"]} == files
        assert shown["inbox"]["count"] == len(expected)
        listed = json.loads(duramen(stack, "queue", "list", "--json").stdout)
        assert {r["name"]: r["reason"] for r in listed if r["state"] == "inbox"} == files
        counts = json.loads(duramen(stack, "queue", "status", "--json").stdout)
        assert counts["inbox"] == shown["inbox"]
        looks = json.loads(duramen(stack, "doctor", "--json", inbox_dir=str(box.root)).stdout)
        found = [look["found"] for look in looks if look["what"] == "inbox" and look["ok"] is None]
        assert sorted(found) == sorted(f"{path}: {why}" for path, why in files.items())
        for words in (["status"], ["queue", "list"], ["queue", "status"], ["doctor"]):
            out = duramen(stack, *words).stdout
            for path, why in files.items():
                assert f"{path}: {why}" in out, out
        many = [box.drop(f"{n:02}.jsonl.part", b"") for n in range(25)]

        async def counted() -> bool:
            said = duramen(stack, "queue", "list").stdout
            return "not queued: 31" in said and "… and 11 more" in said and "24.jsonl" not in said

        await until(counted, "the list is cut, with its count", SECONDS)
        looks = json.loads(duramen(stack, "doctor", "--json", inbox_dir=str(box.root)).stdout)
        assert [look["found"] for look in looks if "more" in look["found"]] == ["… and 11 more"]
        for partial in many:
            partial.unlink()
    looks = json.loads(duramen(stack, "doctor", "--json", inbox_dir=str(box.root)).stdout)
    assert any("3 files wait for ingest" in look["found"] for look in looks)


async def test_a_sidecar_in_another_normal_form_and_case_sets_its_job(own_box: Box) -> None:
    box = own_box
    elsewhere = box.root.parent / "elsewhere"
    elsewhere.mkdir()
    (box.root / "priority").symlink_to(elsewhere)
    (elsewhere / (unicodedata.normalize("NFD", "Größe") + ".YML")).write_bytes(b"epochs: 7\n")
    (elsewhere / "Größe.jsonl").write_bytes(row("größe"))
    with box.running():
        report = await box.ended("Größe.jsonl")
    assert (report.outcome, report.level, report.lineage) == ("queued", "high", "main")
    assert report.settings == {"epochs": 7}
    assert (box.root / "priority").is_symlink()
