"""Parts for hosts that keep their data in PostgreSQL (extra `postgres`)."""
