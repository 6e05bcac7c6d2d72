"""The settings of ingest."""

from pathlib import Path

from pydantic import Field

from shared.settings import StoreSettings


class IngestSettings(StoreSettings):
    """ingest: the inbox belongs to it alone."""

    service = "ingest"

    inbox_dir: Path = Field(description="The folder into which users drop files.")
    settle_seconds: float = Field(
        default=2.0,
        ge=0,
        description="How long a file in the inbox must stay unchanged to count as complete.",
    )
    done_limit_bytes: int = Field(
        default=10 * 2**30,
        ge=0,
        description="How many bytes `inbox/done` may hold before `duramen status` says so. Nothing "
        "in it is ever deleted for you.",
    )
    max_row_bytes: int = Field(default=64 * 2**20, gt=0, description="The largest row of a file.")
    max_upload_bytes: int = Field(
        default=64 * 2**30, gt=0, description="The largest file that can be uploaded."
    )
