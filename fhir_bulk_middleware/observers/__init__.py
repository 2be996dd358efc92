"""Observers that we ship: structured logs, Prometheus metrics, FHIR AuditEvents, and a hash-chained audit file."""
