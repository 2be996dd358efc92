"""FHIR search: criteria, and matching them on parsed resources."""
