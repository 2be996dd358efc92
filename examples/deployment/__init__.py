"""A deployment on many machines: PostgreSQL, object storage, and workers that are scaled by the length of their queue."""
