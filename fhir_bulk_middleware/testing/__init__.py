"""Suites for whoever implements one of our protocols. They need pytest; nothing else in the package imports it."""
