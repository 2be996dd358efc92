"""Strict verification of JWT bearer tokens.

python-jose only checks a signature with one key that was selected before; this package parses everything else strictly. Hosts use
`JoseTokenVerifier`; the key sources are public for other cache times than the defaults.
"""

from fhir_bulk_middleware.jose.keys import ALGORITHMS, KeySet
from fhir_bulk_middleware.jose.remote import UrlKeys
from fhir_bulk_middleware.jose.sources import FileKeys, FixedKeys, KeySource
from fhir_bulk_middleware.jose.verifier import JoseTokenVerifier

__all__ = ["ALGORITHMS", "FileKeys", "FixedKeys", "JoseTokenVerifier", "KeySet", "KeySource", "UrlKeys"]
