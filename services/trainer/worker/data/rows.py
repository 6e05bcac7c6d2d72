"""Reads the rows of a canonical dataset."""

import hashlib
from pathlib import Path

from shared.errors import CannotTrain
from shared.formats.dataset import CanonicalRow


def read_rows(path: Path, sha256: str) -> list[CanonicalRow]:
    """Return all rows of a canonical dataset.

    Raises CannotTrain (data) if its bytes do not hash to `sha256` or a line cannot be parsed.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CannotTrain("data", f"The dataset is damaged: it hashes to {found}, not {sha256}.")
    rows = []
    # Split at "\n" only: splitlines() would also split at characters that JSON allows in strings.
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n")):
        try:
            rows.append(CanonicalRow.parse(line))
        except (ValueError, KeyError, TypeError) as error:
            raise CannotTrain("data", f"Line {number + 1} of the dataset: {error}") from error
    return rows
