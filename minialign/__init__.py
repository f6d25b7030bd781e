"""minialign: teach a small quantized Llama your preferences, on your laptop."""

__version__ = "0.1.0"
