"""Stores that keep everything in memory: the readable specification of the contracts, and fast tests."""
