"""Where it is recorded who did what."""
