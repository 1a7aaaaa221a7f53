"""The edge's agent exists so that an Envoy keeps its map, and gets it back after a restart, without any control plane."""
