"""The demonstration: an agent that works honestly, then does what it must not."""
