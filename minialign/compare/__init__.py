"""Training methods on equal terms: one start, one budget, one judge."""
