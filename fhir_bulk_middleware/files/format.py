"""The format of exported files: NDJSON, one FHIR resource as compact JSON on each line."""

__all__ = ["FORMAT_NAMES", "MEDIA_TYPE", "SUFFIX"]

MEDIA_TYPE = "application/fhir+ndjson"
"""The `Content-Type` of files, and the `outputFormat` of manifests that name one (MF-17)."""

FORMAT_NAMES = (MEDIA_TYPE, "application/ndjson", "ndjson")
"""The values of `_outputFormat` (KO-70)."""

SUFFIX = ".ndjson"
"""The end of file names: of keys in the output store, and of the names that browsers save under."""
