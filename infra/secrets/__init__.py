"""Secrets and certificates, made once."""
