"""Shared vocabulary of DataFlow: pure types and rules that import the standard library only."""
