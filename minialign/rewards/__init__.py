"""A number for one answer: reward runs, verifiers, length. Never asks a judge."""
