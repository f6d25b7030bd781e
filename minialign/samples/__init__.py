"""Answers of the model: one a prompt, groups of n, the best of n."""
