"""What may vanish at any moment."""
