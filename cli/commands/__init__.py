"""The subcommands of `dataflow`."""
