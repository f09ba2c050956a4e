"""The service: many agents under one watch, and everything that must not hold it up beside it."""
