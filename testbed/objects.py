"""Object stores: a directory, and a real S3 server in its own process."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from nestor_server.storage import object_store
from testbed.server import free_port, wait_for

BUCKET = "nestor"


@contextmanager
def running_s3() -> Generator[str]:
    """The address of a bucket. The environment of this process and its children has the credentials."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ours = {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(24),  # which no log may have: testbed.leaks
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        wait_for(lambda: _answers(url), "the S3 server")
        httpx.put(f"{url}/{BUCKET}", trust_env=False).raise_for_status()
        yield f"s3://{BUCKET}/tests"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        object_store.open_store.cache_clear()
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def settings_of(home: str, directory: Path) -> Generator[dict[str, Any]]:
    """The settings of a server that stores all blobs in `home`: database, directory or s3."""
    if home == "database":
        yield {}
    elif home == "directory":
        yield {"blob_url": f"file://{directory}/objects", "large_blob_bytes": 1, "object_grace_seconds": 0}
    else:
        with running_s3() as url:
            yield {"blob_url": url, "large_blob_bytes": 1, "object_grace_seconds": 0}


def keys(url: str) -> set[str]:
    """The keys of all objects in a store."""
    listed: Iterable[Any] = (item for page in object_store.open_store(url).list() for item in page)
    return {item["path"] for item in listed}
