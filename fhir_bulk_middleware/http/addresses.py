"""The URLs that we hand out: absolute, and such that they come back to us (KO-110, KO-114)."""

import re
from urllib.parse import quote

from starlette.requests import Request

from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Addresses"]

# A Host header may name a host and a port; anything else would end up in links that we hand out.
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.\-_]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)

_IN_PATHS = "/$:@!&'()*+,;=~"
"""What stands in a URL's path as itself (RFC 3986, section 3.3); the server has decoded the rest, and it is encoded again."""


class Addresses:
    """Builds URLs below the mount.

    Args:
        dialect: has the shapes of paths.
        public_base_url: where clients reach the mount; None to take it from each request (its scheme, its Host header and
            the path of the mount), which is right behind proxies that hand these on.
    """

    def __init__(self, dialect: Dialect, public_base_url: str | None) -> None:
        self._dialect = dialect
        self._public = public_base_url

    def base(self, request: Request) -> str:
        """The mount's own URL, without a slash at its end.

        Raises:
            Refused: `HOST_INVALID`, if the URL had to be built from a Host header that is not one.
        """
        if self._public is not None:
            return self._public
        host = request.headers.get("host", "")
        if _HOST.fullmatch(host) is None:
            raise Refused(Reason.HOST_INVALID, "The Host header must name a host, and a port if need be.", part="http.Host")
        return f"{request.scope['scheme']}://{host}{quote(request.scope.get('root_path', '').rstrip('/'), safe=_IN_PATHS)}"

    def kick_off(self, request: Request) -> str:
        """The URL that was asked for (MF-02): with the query of a GET, without that of a POST."""
        path = quote(request.scope["path"].removeprefix(request.scope.get("root_path", "").rstrip("/")), safe=_IN_PATHS)
        query = request.scope["query_string"].decode("latin-1")
        return self.base(request) + path + (f"?{query}" if query and request.method != "POST" else "")

    def status(self, base: str, job_id: str) -> str:
        """The polling location of a job."""
        return base + self._dialect.status_path.format(job=job_id)

    def page(self, base: str, job_id: str, page: int) -> str:
        """A further page of a job's manifest."""
        return base + self._dialect.page_path.format(job=job_id, page=page)

    def file(self, base: str, file_id: str) -> str:
        """Where a file is fetched."""
        return base + self._dialect.file_path.format(file=file_id)
