"""Fetchers of documents from the web."""
