"""Runs of training, as streams of events."""
