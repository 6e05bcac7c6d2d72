"""One worker's life on one segment: its process, its events, and the uploads of what it saved."""
