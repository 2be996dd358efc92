"""The embedded default: jobs and versioned resources in SQLite files."""
