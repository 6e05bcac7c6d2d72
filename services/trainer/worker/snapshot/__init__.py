"""Snapshots: what the model makes of its probes, within a budget of time."""
