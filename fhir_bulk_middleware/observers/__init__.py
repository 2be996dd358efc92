"""The shipped observers: structured logs, Prometheus metrics, FHIR AuditEvents, and a hash-chained audit file."""
