"""Stores that we ship: memory (the readable specification), the file system, SQLite."""
