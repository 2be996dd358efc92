"""A real nginx on loopback with the configuration blocks of a page, and a client that knows its certificate."""

import datetime as dt
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from waiting import PATIENCE

__all__ = ["NAME", "NGINX", "Outside", "blocks", "nginx"]

NAME = "ehr.example"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")

_CONFIGURATION = """
{user}
worker_processes 1;
pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""


class Outside(httpx2.AsyncBaseTransport):
    """The internet: knows one name, and sends its requests to nginx over TLS."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._port = port
        self._inner = httpx2.AsyncHTTPTransport(verify=ssl.create_default_context(cafile=str(certificate)))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request to the only address that there is."""
        assert (request.url.scheme, request.url.netloc) == ("https", NAME.encode()), f"{request.url} does not resolve"
        request.extensions = {**request.extensions, "sni_hostname": NAME}
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


@contextmanager
def nginx(block: str, inside: int, folder: Path) -> Iterator[Outside]:
    """Serve a `server` block of the page until the context ends.

    Args:
        block: with port 443, port 8000 inside, and the certificate below /etc/ssl.
        inside: the port of the server behind it.
        folder: for everything that nginx writes.
    """
    _certificate(folder)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for there, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8000": f"127.0.0.1:{inside}",
        "/etc/ssl/": f"{folder}/",
    }.items():
        assert there in block
        block = block.replace(there, here)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_CONFIGURATION.format(user=user, folder=folder, block=block))
    assert NGINX is not None
    command = [NGINX, "-p", f"{folder}", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log", "-g", "daemon off;"]
    process = subprocess.Popen(command)
    try:
        _wait(port, process, folder)
        yield Outside(port, folder / "ehr.pem")
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait(port: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, (folder / "error.log").read_text()
        assert time.monotonic() < end, (folder / "error.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except OSError:
            time.sleep(0.01)
        else:
            return


def _certificate(folder: Path) -> None:
    """A self-signed certificate of the name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ehr.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ehr.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
