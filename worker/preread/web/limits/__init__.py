"""Limits on connections, requests and password checks of the page."""
