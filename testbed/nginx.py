"""A real nginx with TLS, configured by the text in docs/operations.md."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from testbed.server import free_port, wait_for

DOCUMENT = Path(__file__).parents[1] / "docs" / "operations.md"
PREFIX = "/nestor"  # in the document
_MAIN = """
daemon off;
pid {home}/pid;
error_log {home}/error.log;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    proxy_bind {address};
{documented}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A proxy at `url`, whose certificate is its own authority."""

    url: str
    port: int
    authority: Path


@contextmanager
def running_nginx(ports: Sequence[int], *, address: str = "127.0.0.1") -> Iterator[Nginx]:
    """The documented nginx in front of servers at these ports of this machine, which see it at `address`."""
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert binary is not None, "No nginx was found. Install it (Debian: apt-get install nginx-light)."
    with tempfile.TemporaryDirectory(prefix="nestor-nginx-") as directory:
        home, port = Path(directory), free_port()
        nginx = Nginx(f"https://127.0.0.1:{port}{PREFIX}", port, home / "certificate.pem")
        _write_certificate(nginx.authority, home / "key.pem")
        user = "user root;" if os.geteuid() == 0 else ""
        text = _MAIN.format(home=home, user=user, address=address, documented=_documented(home, port, ports))
        (home / "nginx.conf").write_text(text)
        with (home / "output.log").open("wb") as log:
            process = subprocess.Popen([binary, "-c", str(home / "nginx.conf")], stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or _answers(nginx), "nginx")
            assert process.poll() is None, (home / "output.log").read_text()
            yield nginx
        finally:
            process.terminate()
            process.wait(20)


def _documented(home: Path, port: int, ports: Sequence[int]) -> str:
    """The configuration in the document, with our addresses and files in place of those."""
    (text,) = re.findall(r"^```nginx\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for documented, ours in {
        "server 127.0.0.1:8000 max_fails=0;": " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports),
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/nestor/certificate.pem": str(home / "certificate.pem"),
        "/etc/nestor/key.pem": str(home / "key.pem"),
    }.items():
        assert text.count(documented) == 1, documented
        text = text.replace(documented, ours)
    return text


def _answers(nginx: Nginx) -> bool:
    try:
        return httpx.get(f"{nginx.url}/readyz", verify=False, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _write_certificate(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Nestor's tests")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    encoded = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    key.touch(0o600)
    key.write_bytes(encoded)
