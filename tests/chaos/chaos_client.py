"""A client that outlives servers, and remembers each answer that no client should get."""

import asyncio
import hashlib
import socket
from collections import Counter
from collections.abc import Mapping
from random import Random
from urllib.parse import urlsplit

import httpx2
from chaos_cluster import Cluster

_PATIENCE = 60.0


class Client:
    """Asks any server; what must not be is in `violations`."""

    def __init__(self, cluster: Cluster, random: Random, subject: str) -> None:
        self.cluster = cluster
        self.random = random
        self.subject = subject
        self.violations: list[str] = []
        self.busy = 0
        """How often the answer was 503, with word of when to come again."""
        self.may_be_busy = False
        self.fetched: Counter[str] = Counter()
        """How often each file was fetched."""
        headers = {"Authorization": f"Bearer {cluster.mint.token(subject, 'system/*.cruds', expires_in=86_400)}"}
        self.http = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30), limits=httpx2.Limits(max_connections=20))

    async def ask(
        self, method: str, path: str, *, server: int | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """One answer, from whichever server gives one; a server that dies while it answers is no answer."""
        end = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            url = self.cluster.urls[self.random.randrange(len(self.cluster.urls)) if server is None else server] + path
            try:
                answer = await self.http.request(method, url, headers=headers)
            except httpx2.TransportError as error:
                if asyncio.get_running_loop().time() > end:
                    raise TimeoutError(f"no server answers {method} {path}") from error
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 503 and answer.headers.get("Retry-After") and self.may_be_busy:
                if asyncio.get_running_loop().time() > end:
                    raise TimeoutError(f"every server is busy, {method} {path}")
                self.busy += 1
                await asyncio.sleep(0.1)
                continue
            return answer

    async def fetch(self, url: str) -> bytes:
        """A file."""
        path = urlsplit(url).path
        answer = await self.ask("GET", path)
        if answer.status_code != 200:
            self.wrong(f"a file was answered {answer.status_code}")
            return b""
        self.fetched[path.rpartition("/")[2]] += 1
        return answer.content

    def wrong(self, what: str) -> None:
        """Remember what must not be."""
        if what not in self.violations:
            self.violations.append(what)

    async def slow(self, path: str, size: int, sha256: str, halfway: asyncio.Event, go_on: asyncio.Event) -> None:
        """Read a file slowly: begin, wait while the world changes, and then read all the rest."""
        url = urlsplit(self.random.choice(self.cluster.urls))
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(small, (str(url.hostname), url.port))
            reader, writer = await asyncio.open_connection(sock=small, limit=4096)
        except BaseException:
            small.close()
            raise
        try:
            token = self.http.headers["Authorization"]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                self.wrong(f"a slow reader got {head[:20]!r}")
                return
            digest, left = hashlib.sha256(), size
            while left:
                if left < size:
                    halfway.set()
                    await go_on.wait()
                chunk = await reader.read(min(left, 4096))
                if not chunk:
                    self.wrong(f"a download that had begun ended {left} bytes early")
                    return
                digest.update(chunk)
                left -= len(chunk)
            if digest.hexdigest() != sha256:
                self.wrong("a download that had begun has other bytes than the manifest promised")
        finally:
            halfway.set()
            writer.close()
