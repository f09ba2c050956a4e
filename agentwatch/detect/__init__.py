"""Detectors: they turn events into derived events. They know protocols and behaviour and decide nothing."""
