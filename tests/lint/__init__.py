"""The project's own rules, which ruff cannot check: ``python -m tests.lint`` reports violations with file and line."""
