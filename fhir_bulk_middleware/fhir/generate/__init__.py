"""The generator of the definition tables: run by hand when a release is added, never by a server.

    python -m fhir_bulk_middleware.fhir.generate --r4 DIR --r4b DIR --r5 DIR

Each DIR is an unpacked npm package that HL7 publishes under CC0-1.0: `hl7.fhir.r4.examples` 4.0.1 (which carries R4's
whole set of definitions), `hl7.fhir.r4b.core` 4.3.0, `hl7.fhir.r5.core` 5.0.0. The same packages give the same bytes.
"""
