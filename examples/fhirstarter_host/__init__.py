"""A FHIRStarter server with bulk export around it."""
