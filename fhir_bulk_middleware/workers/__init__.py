"""Where work runs; it knows nothing of exports."""
