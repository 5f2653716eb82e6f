"""Text that is safe to print, to store and to put into tables."""
