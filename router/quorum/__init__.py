"""How the sites of a zone agree on its directory: Raft with one entry on its way at a time, and a witness that keeps none."""
