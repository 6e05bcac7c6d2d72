"""The supervisor, which handles bus, store, lease and control, and never imports torch."""
