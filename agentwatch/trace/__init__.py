"""Traces: the file of source records, its writer, its reader."""
