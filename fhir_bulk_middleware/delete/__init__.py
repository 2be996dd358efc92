"""Deletes of resources: safe, by policy, and seen by the exports that come after."""
