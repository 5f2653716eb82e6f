"""Inference processes, dispatcher, and the service that runs them."""
