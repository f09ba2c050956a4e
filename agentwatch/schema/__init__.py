"""The schema of events: the one place from which C structs, decoders and documentation come."""
