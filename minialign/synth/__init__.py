"""Data made by models, the pure parts: prompts, the parsing of what came back, filters."""
