"""`make demo`: a fleet of its own, real traffic, two kills, and a verdict by the same oracle that judges every other run."""
