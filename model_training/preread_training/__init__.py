"""The training bench: indexes films, fits a network, measures it and publishes a bundle for the worker."""
