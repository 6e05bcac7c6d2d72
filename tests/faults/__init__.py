"""Breaks an embedded run in each known way, and writes down what its user is told."""
