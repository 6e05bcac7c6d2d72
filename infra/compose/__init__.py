"""The host side of the containers: preflight, secrets, up and down.

Uses only the standard library.
"""
