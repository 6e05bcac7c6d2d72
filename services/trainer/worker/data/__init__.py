"""Rows, tokens, probes and the plan."""
