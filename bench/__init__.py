"""Measurements of the event path and of what stands beside it. `./dev bench` runs them all."""
