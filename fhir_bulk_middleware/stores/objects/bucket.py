"""`Bucket`: the place of an object output store, from a URL and settings, opened when it is first used."""

import atexit
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import MemoryStore, ObjectStore, S3Store, from_url
from pydantic import JsonValue

from fhir_bulk_middleware.contract.recipes import factory_of
from fhir_bulk_middleware.contract.running import Recipe

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["Bucket"]

_SCHEMES = ("s3", "gcs", "azure", "local", "memory")
_SECRET = {"key", "secret", "token", "sas", "password", "authorization"}
_NAMES_ONE = {"id", "file", "path", "uri", "endpoint", "enabled"}
_DAY = "24h"
_SILENCE = "30s"
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(milliseconds=100), timedelta(seconds=5)
_RETRIES = 1_000  # the time is the limit

_SETTLING = 0.1
"""Seconds before the end of a process, in which obstore's threads let go of what they hold. A thread of theirs that waits for the
interpreter while it ends aborts the process (SIGABRT), one in ten times on a busy machine."""

_used_by: set[int] = set()
"""The process that has used obstore, whose threads do not survive a fork."""


@dataclass(frozen=True)
class Bucket:
    """Where objects are, and how to reach them. Holds no secret, so that it can be written as JSON.

    Attributes:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://account/container/prefix`, `file:///folder` or `memory:///`.
        config: options of obstore's store (`endpoint`, `region`, `server_side_encryption`, `sse_kms_key_id`, ...).
        client_options: options of obstore's HTTP client (`allow_http`, `root_certificate`, `timeout`, ...).
        credentials: `package.module:callable` that makes an obstore credential provider; None for the environment's credentials.
        patience: seconds in which a request that fails is repeated.

    Raises:
        ValueError: the URL has another form, or a secret is among the options.
    """

    url: str
    config: Mapping[str, JsonValue]
    client_options: Mapping[str, JsonValue]
    credentials: str | None
    patience: float

    def __post_init__(self) -> None:
        """Check the URL and the options."""
        parts = urlsplit(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("the URL of an object store has no user, query or fragment: secrets come from the environment")
        if self.scheme not in _SCHEMES:
            raise ValueError(f"{self.url}: write s3://, gs://, az:// or file:///")
        headers = self.client_options.get("default_headers")
        for name in [*self.config, *(headers if isinstance(headers, Mapping) else ())]:
            if _is_secret(name):
                raise ValueError(
                    f"{name}: a secret must not be given here, because these options are handed to worker processes as JSON; set "
                    "it in the environment (AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_ACCOUNT_KEY, GOOGLE_SERVICE_ACCOUNT, ...), or "
                    "name a credential provider"
                )
        if urlsplit(str(self.client_options.get("proxy_url", ""))).password:
            raise ValueError("proxy_url: a password must not be given here; set it in the environment (HTTPS_PROXY)")

    @cached_property
    def scheme(self) -> str:
        """Which kind of store it is: `s3`, `gcs`, `azure`, `local` or `memory`.

        Raises:
            ValueError: no known one.
        """
        try:
            return str(obstore.parse_scheme(self.url))
        except BaseError:
            raise ValueError(f"{self.url}: write s3://, gs://, az:// or file:///") from None

    @property
    def signs(self) -> bool:
        """Whether it can sign URLs that work without further headers, which an object under a customer's key does not."""
        encryption = self.config.get("server_side_encryption", os.environ.get("AWS_SERVER_SIDE_ENCRYPTION", ""))
        return self.scheme in {"s3", "gcs", "azure"} and encryption != "sse-c"

    @property
    def verifies(self) -> bool:
        """Whether the store compares what arrives with a checksum that is sent along."""
        return self.scheme == "s3" and self._config.get("checksum_algorithm") is not None

    def store(self) -> ObjectStore:
        """The store, opened on the first call.

        Raises:
            RuntimeError: another process used obstore, and this one is its fork.
        """
        if _used_by and os.getpid() not in _used_by:
            raise RuntimeError(
                "an object store was used before this process was forked, and its threads are not here: use it after the fork"
            )
        if not _used_by:
            _used_by.add(os.getpid())
            atexit.register(time.sleep, _SETTLING)
        return self._store

    def of_requests(self, endpoint: str) -> S3Store:
        """A store with the same credentials whose requests go to this URL, for `presigned`.

        Both names of the endpoint are given, because the second one takes precedence and may stand in the environment.
        """
        named = ("endpoint", "aws_endpoint", "endpoint_url", "aws_endpoint_url", "aws_endpoint_url_s3", "endpoint_url_s3")
        options = {name: value for name, value in self._config.items() if name not in named}
        options |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint, "virtual_hosted_style_request": True}
        name = urlsplit(self.url).netloc or "bucket"
        return S3Store(
            name,
            config=options,  # type: ignore[arg-type] # names and values are checked by obstore
            client_options=self._client_options,
            credential_provider=self._credential_provider,
        )

    @cached_property
    def _store(self) -> ObjectStore:
        if self.scheme == "memory":
            return MemoryStore()
        if self.scheme == "local":
            return from_url(self.url, mkdir=True, automatic_cleanup=True)
        return from_url(
            self.url,
            config=cast("Any", self._config),
            client_options=self._client_options,
            retry_config=self._retry_config,
            credential_provider=self._credential_provider,
        )

    @property
    def _config(self) -> dict[str, JsonValue]:
        """The options, with our defaults; an option that is None is left out."""
        checksum = {"checksum_algorithm": "SHA256"} if self.scheme == "s3" else {}
        return {name: value for name, value in {**checksum, **self.config}.items() if value is not None}

    @property
    def _client_options(self) -> "ClientConfig":
        """A download may take as long as its client needs; a store that says nothing for a while is away."""
        return cast("ClientConfig", {"timeout": _DAY, "read_timeout": _SILENCE, **self.client_options})

    @property
    def _retry_config(self) -> "RetryConfig":
        return {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=self.patience),
            "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE, "base": 2},
        }

    @cached_property
    def _credential_provider(self) -> Any:
        return None if self.credentials is None else factory_of(Recipe(self.credentials, {}))()


def _is_secret(name: str) -> bool:
    """Whether an option or a header of this name holds a secret, rather than the name of one."""
    words = re.split(r"[_-]", name.lower())
    return not _SECRET.isdisjoint(words) and words[-1] not in _NAMES_ONE
