"""Reading: files of every supported shape become canonical rows."""
