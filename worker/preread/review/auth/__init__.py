"""Accounts, sessions, passwords, and limits on sign-ins."""
