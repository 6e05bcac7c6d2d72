"""The bus: rendered configuration and permissions."""
