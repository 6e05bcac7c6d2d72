"""The inbox: which files are ready, and where they go."""
