"""The checks that only a GPU can answer; `python -m tests.gpu` runs them all and writes a table."""
