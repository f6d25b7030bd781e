"""The screen on which two answers are compared."""
