"""FHIR Bulk Data export and safe deletes for existing FHIR servers."""
