"""The built packages."""
