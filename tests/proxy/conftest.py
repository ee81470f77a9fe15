"""Two servers on one database behind the documented nginx, with TLS and below a path."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
import pytest

from nestor.schemas import API
from testbed.nginx import PREFIX, Nginx, running_nginx
from testbed.server import Server, running_server, serving
from testbed.services import Services
from tests.browser.conftest import browser

__all__ = ["browser"]


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    with running_server(services, redis_db=3, root_path=PREFIX, stream_ping_seconds=0.5) as server:
        yield server


@pytest.fixture(scope="module")
def second(server: Server) -> Iterator[Server]:
    urls = {"database_url": server.settings.database_url, "redis_url": server.settings.redis_url}
    with serving(urls | {"root_path": PREFIX, "stream_ping_seconds": 0.5}) as second:
        yield second


@pytest.fixture(scope="module")
def nginx(server: Server, second: Server) -> Iterator[Nginx]:
    with running_nginx([server.settings.port, second.settings.port]) as nginx:
        yield nginx


@pytest.fixture
def token(server: Server) -> str:
    return server.new_token()


@pytest.fixture
def http(nginx: Nginx, token: str) -> Iterator[httpx.Client]:
    """A client of the API through the proxy, which trusts its authority."""
    verify = ssl.create_default_context(cafile=nginx.authority)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=nginx.url + API, headers=headers, verify=verify, trust_env=False, timeout=60) as http:
        yield http
