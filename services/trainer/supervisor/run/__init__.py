"""One worker's life on one segment: its process, its events, and the way of what it saved."""
