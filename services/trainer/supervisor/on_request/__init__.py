"""Answers that a child process finds: a row as tokens, a sample of rows, a base tried out."""
