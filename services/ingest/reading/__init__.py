"""Reading: every shape of file, to canonical rows."""
