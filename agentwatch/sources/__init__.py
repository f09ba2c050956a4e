"""Sources of records: the live kernel, a trace, the state found at attach time."""
