"""What several commands draw."""
