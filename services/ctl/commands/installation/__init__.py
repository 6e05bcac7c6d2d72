"""The commands about an installation itself: its settings, its logs, a bundle for support."""
