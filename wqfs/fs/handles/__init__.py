"""Open files, one kind a module. `base` has what the channel expects of each."""
