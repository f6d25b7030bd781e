"""The screen of the judge."""
