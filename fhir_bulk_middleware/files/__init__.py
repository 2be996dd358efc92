"""A part as bytes."""
