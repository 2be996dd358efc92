"""Suites for whoever writes an adapter or a store: subclass one, give it what you wrote, and run pytest."""
