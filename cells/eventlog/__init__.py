"""The event log: the point after which nothing is lost. `log` is the port and its specification."""
