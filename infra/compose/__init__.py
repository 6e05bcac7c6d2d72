"""The host side of the containers: preflight, secrets, up and down. Standard library alone."""
