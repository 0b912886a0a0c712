"""Use cases: ingest, retrieve, answer, readiness."""
