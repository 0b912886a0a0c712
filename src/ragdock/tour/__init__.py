"""What the notebook calls: cells with Docker, the decision card, plots, challenges."""
