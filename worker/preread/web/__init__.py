"""Web page for doctors and JSON API; reads the database, never images."""
