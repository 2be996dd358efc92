"""Figures and health of a mount: for probes and for metrics."""
