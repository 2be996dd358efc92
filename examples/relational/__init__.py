"""A practice that keeps its data in tables."""
