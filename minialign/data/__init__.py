"""What `minialign data` does with files of rows: check, show, write; prompts; holding rows out."""
