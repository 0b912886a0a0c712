"""Bytes to text with offsets, pages and headings."""
