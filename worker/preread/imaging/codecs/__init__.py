"""Decoders of compressed pixels, and the checks before each."""
