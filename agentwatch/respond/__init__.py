"""Responses: what is done about a verdict, and the record of what was done."""
