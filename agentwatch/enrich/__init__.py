"""Enrichment: the process tree, the flows, their streams, the agents."""
