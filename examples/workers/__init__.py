"""Dispatchers on task queues other than procrastinate."""
