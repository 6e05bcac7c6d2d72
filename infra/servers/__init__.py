"""The stores: rendered configuration, identities and what closes their inner ports."""
