"""One complete cell: ingest, processing and storage. Nothing in here knows that another cell exists."""
