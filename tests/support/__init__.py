"""Real but small stand-ins that tests share."""
