"""Forensics: what a recording tells, for people and for other tools. Everything is a fold over a replay."""
