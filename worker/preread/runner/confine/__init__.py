"""System call filter and file access rules of an inference process."""
