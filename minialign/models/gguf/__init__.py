"""GGUF files: their metadata, tokenizers and weights, and their import."""
