"""The vault: versions, verified copies, `latest`, rollback. Only it writes backup and archive."""
