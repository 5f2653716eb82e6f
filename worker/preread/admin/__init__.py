"""Bundles in use, purge, backup, transfer, installation."""
