"""What a store says that refuses a request because its clock and ours differ."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from minio.error import S3Error


def clocks_differ(error: S3Error) -> str | None:
    """Return how this host's clock and a store's differ, if it refused a request for that."""
    if error.code != "RequestTimeTooSkewed":
        return None
    there = error.response.headers.get("Date") if error.response is not None else None
    here = datetime.now(UTC)
    ahead = (here - parsedate_to_datetime(there)).total_seconds() / 60 if there else 0.0
    how = f"{abs(ahead):.0f} min {'ahead of' if ahead > 0 else 'behind'}" if there else "far from"
    return (
        f"this host's clock ({here:%Y-%m-%d %H:%M} UTC) is {how} the store's, which refuses every "
        "request: set the clock that is wrong (timedatectl set-ntp true)"
    )
