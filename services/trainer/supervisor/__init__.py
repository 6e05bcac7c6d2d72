"""The supervisor: bus, store, lease and control; never torch."""
