"""The whole loop on the embedded model, in a few minutes."""
