"""A FHIR server to try the middleware on: people who never lived, a small host, and a client that takes everything home."""
