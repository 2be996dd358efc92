"""Checks of a storage adapter on the user's own data, which they only read.

`fhir-bulk check` and `pytest --fhir-bulk-adapter` run them; `report.report` runs them from Python. The suites of
`fhir_bulk_middleware.testing` write to an empty storage and see more; these see the data that there is.
"""
