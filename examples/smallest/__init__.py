"""A host whose resources are in a dict."""
