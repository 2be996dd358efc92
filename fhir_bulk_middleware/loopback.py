"""Recognises addresses that only this machine can reach."""

import ipaddress
from urllib.parse import urlsplit

__all__ = ["is_loopback", "plain_beyond_loopback"]


def is_loopback(host: str) -> bool:
    """Whether a host name or address is a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plain_beyond_loopback(url: str | None) -> bool:
    """Whether requests to this URL cross a network without TLS."""
    if url is None:
        return False
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
