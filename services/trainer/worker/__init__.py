"""The worker, which uses torch and local files, and never bus or store."""
