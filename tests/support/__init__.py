"""What several tests share: tiny models, stand-ins for servers and people, processes."""
