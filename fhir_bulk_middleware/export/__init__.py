"""The export job: kick-off, plan, slices, status and manifest."""
