"""What a host implements or is handed, and the values in it."""
