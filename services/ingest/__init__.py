"""ingest: whatever is dropped into the inbox becomes a stored dataset and a queued job."""
