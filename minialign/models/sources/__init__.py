"""Where models come from: the hub, wheels, folders; and making them smaller."""
