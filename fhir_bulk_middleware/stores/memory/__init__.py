"""Stores that keep everything in this process: the readable specification of what a store does, and quick for tests."""
