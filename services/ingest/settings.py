"""The settings of ingest."""

from pathlib import Path

from pydantic import Field

from shared.settings import StoreSettings


class IngestSettings(StoreSettings):
    """ingest: the inbox belongs to it alone."""

    service = "ingest"
    inbox_dir: Path
    settle_seconds: float = Field(default=2.0, ge=0)
    max_row_bytes: int = Field(default=64 * 2**20, gt=0)
    max_upload_bytes: int = Field(default=64 * 2**30, gt=0)
