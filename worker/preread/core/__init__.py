"""Types, errors, settings, text and logging that every package shares."""
