"""A demo FHIR server: a synthetic population, a small host for the middleware, and a bulk data client."""
