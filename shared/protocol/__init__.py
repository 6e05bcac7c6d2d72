"""Every subject and every message that travels between services."""
