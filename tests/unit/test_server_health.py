"""The health check of a server's container kills what is ill for six checks in a row."""

import os
import subprocess
from pathlib import Path

import pytest

from infra.local.programs import ROOT

SCRIPT = ROOT / "infra/compose/server_health.sh"
# A container of its own for processes, in which the first one is this shell, as tini is there.
CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
# Ended here by SIGTERM (143) unless it was killed before (137).
RUN = 'sleep 60 & for answer in $1; do sh "$0" $answer; done; kill $!; wait $!; echo $?'


def lives_after(checks: list[str], folder: Path) -> bool:
    """Return whether the server lives after checks that each ask with one of these commands."""
    done = subprocess.run(
        [*CONTAINER, "sh", "-c", RUN, SCRIPT, " ".join(checks)],
        env={**os.environ, "SEEN": str(folder)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.stdout.split()[-1] == "143"


@pytest.mark.parametrize(
    ("checks", "lives"),
    [
        (["true"] * 9, True),
        (["true"] + ["false"] * 6, True),
        (["true"] + ["false"] * 7, False),
        (["true"] + ["false"] * 5 + ["true"] + ["false"] * 6, True),
        (["false"] * 20, True),  # it has not been well yet: a slow start is let be
    ],
)
def test_a_server_that_stays_unhealthy_is_killed(
    tmp_path: Path, checks: list[str], lives: bool
) -> None:
    if subprocess.run([*CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("this host lets no process have a process table of its own")
    assert lives_after(checks, tmp_path) is lives
    assert (tmp_path / "well").exists() is (lives and "true" in checks)
