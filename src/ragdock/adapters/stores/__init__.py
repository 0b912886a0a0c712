"""Durable truth."""
