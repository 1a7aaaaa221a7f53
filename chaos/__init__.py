"""Chaos: faults, workloads and the oracle that judges what they did."""
