"""Looking at runs, and starting them in a process of their own."""
