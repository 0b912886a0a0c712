"""The terminal, and nothing else."""
