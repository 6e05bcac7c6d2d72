"""The embedded run: servers and services as processes under one supervisor."""
