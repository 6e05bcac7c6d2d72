"""The vault: publishes versions, verifies copies, moves `latest` and rolls back.

Only it writes to backup and archive.
"""
