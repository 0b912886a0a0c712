"""Numbers for an operator."""
