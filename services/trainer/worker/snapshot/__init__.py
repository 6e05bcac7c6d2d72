"""Snapshots: how the model does on its probes, measured within a time budget."""
