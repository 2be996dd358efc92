"""A FHIR server that keeps resources as JSON text in PostgreSQL, every version of them, with bulk export."""
