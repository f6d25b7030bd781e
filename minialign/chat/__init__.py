"""A conversation with the model, and where conversations are kept."""
