"""A file about mining that somebody edits; it does nothing."""

METHODS = ("mining.subscribe", "mining.authorize", "mining.submit")
