"""Ingest: decides per event, appends to the log, and only then answers."""
