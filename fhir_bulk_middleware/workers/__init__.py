"""Runners, worker processes and lease keeping; independent of what the work is."""
