"""Bearer tokens as JWTs: python-jose behind a strict door.

Only the check of a signature, with one key that was chosen beforehand, is left to python-jose; whatever surrounds it is read
here, strictly. `JoseTokenVerifier` is what a host needs; the key sources are for those who want other times than the default.
"""

from fhir_bulk_middleware.jose.keys import ALGORITHMS, KeySet
from fhir_bulk_middleware.jose.remote import UrlKeys
from fhir_bulk_middleware.jose.sources import FileKeys, FixedKeys, KeySource
from fhir_bulk_middleware.jose.verifier import JoseTokenVerifier

__all__ = ["ALGORITHMS", "FileKeys", "FixedKeys", "JoseTokenVerifier", "KeySet", "KeySource", "UrlKeys"]
