"""Win rates between models, adapters and files of answers."""
