"""Asynchronous iterators that are closed, and read ahead."""
