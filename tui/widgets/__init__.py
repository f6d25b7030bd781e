"""What several screens show: the bar, dialogs, help."""
