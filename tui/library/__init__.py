"""The screen of models, data and answers."""
