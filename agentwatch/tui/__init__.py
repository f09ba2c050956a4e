"""Live views for the terminal."""
