"""Bulk export: from a kick-off to the last byte of the last file."""
