"""How much each caller may ask."""
