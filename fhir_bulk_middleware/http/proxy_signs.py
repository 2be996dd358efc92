"""Finds the requests whose address is that of a proxy's inside, and logs which setting is missing (KO-114).

Headers such as `X-Forwarded-Host` are never believed, since clients can send them too. They are compared with what the server
assumes. A contradiction is logged; a request whose URLs would name an inside address is refused.
"""

import ipaddress
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Final

from starlette.types import Scope

from fhir_bulk_middleware.loopback import is_loopback
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["ProxySigns"]

_log = logging.getLogger("fhir_bulk_middleware")

_HEADERS: Final = frozenset(
    {
        *(b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-server", b"x-forwarded-port"),
        *(b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix"),
    }
)
_FORWARDED: Final = re.compile(r'\b(proto|host)="?([^";,\s]+)', re.IGNORECASE)
_INSIDE: Final = (".local", ".internal", ".localhost", ".localdomain")
_REMEDY: Final = "Set public_base_url to the URL at which clients reach this mount."


class ProxySigns:
    """Checks the address of requests from which URLs are built. Each finding is logged once."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def check(self, scope: Scope, host: str) -> None:
        """Log what contradicts the address of a request.

        Args:
            scope: the request.
            host: its Host header, well formed.

        Raises:
            Refused: `FAULT`, if the request came through a proxy and its Host header names an inside address.
        """
        told = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
        name = _name(host)
        if not told and scope.get("http_version") != "1.0":
            if is_loopback(name):
                self._loopback(scope)
            return
        hosts = set(_told(told, b"x-forwarded-host", "host"))
        if _inside(name) or (hosts and name not in map(_name, hosts)):
            self._say(
                logging.ERROR,
                "requests come through a proxy, and their Host header is not the one that the client sent. They are refused, "
                "because the URLs of jobs and files would name an inside address",
            )
            raise Refused(Reason.FAULT)
        wrong = "".join(f"; {each}" for each in _contradictions(scope, told))
        self._say(
            logging.WARNING,
            "requests come through a proxy, and the URLs of jobs and files are built from the scheme, Host header and path that "
            f"arrive here{wrong}",
        )

    def _loopback(self, scope: Scope) -> None:
        near = is_loopback((scope.get("client") or [""])[0])
        self._say(
            logging.INFO if near else logging.WARNING,
            "the URLs of jobs and files name a loopback address, as the Host header of the request does; other machines cannot "
            "reach it",
        )

    def _say(self, level: int, finding: str) -> None:
        if finding not in self._logged:
            self._logged.add(finding)
            _log.log(level, "public_base_url is not set: %s. %s", finding, _REMEDY)


def _contradictions(scope: Scope, told: Mapping[bytes, str]) -> Iterator[str]:
    """What the headers of a proxy say about the address, and the server does not."""
    schemes = set(_told(told, b"x-forwarded-proto", "proto"))
    if schemes and scope["scheme"] not in schemes:
        yield "X-Forwarded-Proto names another scheme, and the server does not trust it"
    elif not schemes and scope["scheme"] == "http":
        yield "no X-Forwarded-Proto says whether clients use https"
    prefix = told.get(b"x-forwarded-prefix", "").strip("/")
    if prefix and not f"{scope.get('root_path', '')}/".startswith(f"/{prefix}/"):
        yield "X-Forwarded-Prefix names a prefix that the server's root_path lacks"


def _told(told: Mapping[bytes, str], header: bytes, parameter: str) -> Iterator[str]:
    """The values that a list of proxies gives, of their own header and of `Forwarded`."""
    yield from (each.strip().lower() for each in told.get(header, "").split(",") if each.strip())
    yield from (value.lower() for name, value in _FORWARDED.findall(told.get(b"forwarded", "")) if name.lower() == parameter)


def _name(host: str) -> str:
    """A Host header's name or address, without its port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower()


def _inside(name: str) -> bool:
    """Whether only an inside network knows a host by this name or address."""
    try:
        return not ipaddress.ip_address(name).is_global
    except ValueError:
        return "." not in name or name.endswith(_INSIDE)
