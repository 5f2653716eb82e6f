"""Networks as Keras models, and their first weights."""
