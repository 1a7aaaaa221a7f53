"""How the sites of a zone agree on its directory: Raft with one stretch of entries on its way at a time, and a witness that keeps none."""
