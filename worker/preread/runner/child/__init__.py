"""The inference process: protocol, handle, main loop, reading."""
