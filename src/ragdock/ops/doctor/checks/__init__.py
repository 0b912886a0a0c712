"""The checks, a module for each thing looked at; each exports `CHECKS`."""
