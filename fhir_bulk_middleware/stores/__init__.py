"""Stores that we ship, and what they share."""
