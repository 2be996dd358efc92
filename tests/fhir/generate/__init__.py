"""Generator of the definition tables in `fhir_bulk_middleware/fhir/data`. A developer runs it by hand for a new FHIR release.

    python -m tests.fhir.generate --r4 DIR --r4b DIR --r5 DIR

Each DIR is an unpacked npm package that HL7 publishes under CC0-1.0: `hl7.fhir.r4.examples` 4.0.1 (which has all of R4's
definitions), `hl7.fhir.r4b.core` 4.3.0, `hl7.fhir.r5.core` 5.0.0. Equal packages give equal bytes.
"""
