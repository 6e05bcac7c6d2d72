"""Bytes that cannot be trusted to be what they should be, and how they are read."""
