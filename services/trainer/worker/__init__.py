"""The worker: torch and local files; never bus or store."""
