"""Processing: a pure fold from the log to effects. `pipeline` is its table of contents."""
