"""What a cell knows of tenants, keys, plans and epochs: the zone directory's signed placement, kept on disk.

Ingest, processing and storage all need it and never import each other; so it has a room of its own (docs/architecture.md).
"""
