"""Storage: applies effects in one transaction, and answers questions under row-level security."""
