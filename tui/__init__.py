"""The terminal app: chat, label, train. A face: what it does is in ``minialign``."""
