"""Reference systems: published student projects, fitted anew."""
