"""The views that several commands draw."""
