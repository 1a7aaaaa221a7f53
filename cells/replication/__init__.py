"""Keeps what another cell of the zone accepts: its log is read over the one link between cells, and appended to this cell's own."""
