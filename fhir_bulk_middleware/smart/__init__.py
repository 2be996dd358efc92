"""SMART App Launch for back-end services: what a server publishes about it, and an authorization server of its own."""
