"""The door of `--scorer`: whatever gives numbers to answers, judges included."""
