"""Builds the absolute URLs of jobs and files (KO-110, KO-114)."""

import re
from urllib.parse import quote

from starlette.requests import Request

from fhir_bulk_middleware.dialects.model import Dialect
from fhir_bulk_middleware.http.proxy_signs import ProxySigns
from fhir_bulk_middleware.outcomes import Reason, Refused

__all__ = ["Addresses"]

# A host and optionally a port. Anything else in a Host header would end up in the URLs of our answers.
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.\-_]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)

_IN_PATHS = "/$:@!&'()*+,;=~"
"""Characters that need no encoding in a path (RFC 3986, section 3.3). The server has decoded the path; it is encoded again."""


class Addresses:
    """Builds URLs below the mount.

    Args:
        dialect: the templates of paths.
        public_base_url: the URL at which clients reach the mount. None to build it from each request (scheme, Host header, path
            of the mount), which needs a proxy that forwards these; `ProxySigns` logs what is missing.
    """

    def __init__(self, dialect: Dialect, public_base_url: str | None) -> None:
        self._dialect = dialect
        self._public = public_base_url
        self._proxies = ProxySigns()

    def base(self, request: Request) -> str:
        """The URL of the mount, without a slash at its end.

        Raises:
            Refused: the URL must be built from the request, and its Host header is malformed (`HOST_INVALID`) or names an
                inside address of a proxy (`FAULT`).
        """
        if self._public is not None:
            return self._public
        host = request.headers.get("host", "")
        if _HOST.fullmatch(host) is None:
            raise Refused(Reason.HOST_INVALID, "The Host header must name a host, and a port if need be.", part="http.Host")
        self._proxies.check(request.scope, host)
        return f"{request.scope['scheme']}://{host}{quote(request.scope.get('root_path', '').rstrip('/'), safe=_IN_PATHS)}"

    def kick_off(self, request: Request) -> str:
        """The URL of a kick-off (MF-02): with the query string of a GET, without that of a POST."""
        path = quote(request.scope["path"].removeprefix(request.scope.get("root_path", "").rstrip("/")), safe=_IN_PATHS)
        query = request.scope["query_string"].decode("latin-1")
        return self.base(request) + path + (f"?{query}" if query and request.method != "POST" else "")

    def status(self, base: str, job_id: str) -> str:
        """The polling location of a job."""
        return base + self._dialect.status_path.format(job=job_id)

    def jobs(self, base: str, query: str) -> str:
        """The URL of a page of the list of the caller's jobs, in a dialect that has one."""
        return f"{base}{self._dialect.jobs_path}{query and '?'}{query}"

    def page(self, base: str, job_id: str, page: int) -> str:
        """The URL of a further page of a job's manifest."""
        return base + self._dialect.page_path.format(job=job_id, page=page)

    def file(self, base: str, file_id: str) -> str:
        """The URL of a file."""
        return base + self._dialect.file_path.format(file=file_id)
