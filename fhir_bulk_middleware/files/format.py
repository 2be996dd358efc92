"""The format of exported files: NDJSON, one FHIR resource as compact JSON on each line."""

from fhir_bulk_middleware.contract.job import Codec

__all__ = ["FORMAT_NAMES", "MEDIA_TYPE", "SUFFIX", "ending_of"]

MEDIA_TYPE = "application/fhir+ndjson"
"""The `Content-Type` of files, and the `outputFormat` of manifests that name one (MF-17)."""

FORMAT_NAMES = (MEDIA_TYPE, "application/ndjson", "ndjson")
"""The values of `_outputFormat` (KO-70)."""

SUFFIX = ".ndjson"
"""The end of the names that browsers save files under."""


def ending_of(codec: Codec) -> str:
    """The end of keys in the output store."""
    return f"{SUFFIX}.gz" if codec is Codec.GZIP else SUFFIX
