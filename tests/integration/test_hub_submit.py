"""`duramen submit hf:…` from a hub to a queued job, in processes of their own."""

import subprocess
import sys

from tests.command_line import without_settings
from tests.hub import COMMIT, Hub, hub_at_work
from tests.inbox import Box, rows


def submitted(box: Box, hub: Hub, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process: the hub's library reads its address when it is loaded."""
    env = {**without_settings(), **box.house.stack.env("ctl")}
    return subprocess.run(
        [sys.executable, "-m", "services.ctl", "submit", *words],
        env={**env, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_a_data_set_of_the_hub_becomes_a_job_that_says_where_it_is_from(box: Box) -> None:
    with hub_at_work() as hub, box.running():
        hub.files["some/set"] = {"README.md": b"", "x/train.jsonl": rows(box, 3), "x/test.csv": b""}
        hub.cards["some/set"] = {"license": "cc-by-4.0"}
        done = submitted(box, hub, "hf:some/set", "--lineage", box.lineage)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("some--set--train.jsonl: queued as job ")
        origin = f"hf:some/set:train at {COMMIT[:12]}, licence cc-by-4.0"
        assert done.stderr.splitlines()[0] == origin
        (job,) = await box.jobs()
        assert (job.record.name, job.record.rows) == ("some--set--train.jsonl", 3)
        assert job.record.settings.description == origin
        gone = submitted(box, hub, "hf:some/other")
        assert (gone.returncode, gone.stderr.count("\n"), gone.stdout) == (4, 1, "")
