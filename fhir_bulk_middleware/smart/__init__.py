"""SMART Backend Services: the configuration document, and a small authorization server."""
