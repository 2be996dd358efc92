"""Which addresses only this machine can reach."""

import ipaddress
from urllib.parse import urlsplit

__all__ = ["is_loopback", "plain_beyond_loopback"]


def is_loopback(host: str) -> bool:
    """Whether a host, as a name or an address, is this machine as seen by itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plain_beyond_loopback(url: str | None) -> bool:
    """Whether what goes to this URL can be read on its way: no TLS, and not within this machine."""
    if url is None:
        return False
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
