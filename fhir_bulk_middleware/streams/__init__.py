"""Helpers for asynchronous iterators: closing them, and reading ahead."""
