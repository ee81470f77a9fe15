"""Uploads: the chunks of one gigabyte through HTTP, and the memory of a client that submits as much."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from time import monotonic

from benchmarks.rows import Row
from benchmarks.server import figures
from benchmarks.server.load import Client
from benchmarks.server.target import Target
from benchmarks.submission import apart
from nestor.schemas import CHUNK_BYTES

CHUNKS, QUICK_CHUNKS = 256, 4  # a gigabyte
CASE = "data by value"  # of benchmarks.submission
LIMIT = 120.0  # seconds of one chunk


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    chunks = QUICK_CHUNKS if quick else CHUNKS
    user = target.user()
    digest, random = _digest(chunks)
    target.observe()
    row = asyncio.run(_upload(user.client, digest, random, chunks))
    yield row | figures.observed(target.observed())
    if not quick:
        yield _submission(target)


def _digest(chunks: int) -> tuple[str, bytes]:
    """The digest of the upload, and its first chunk. Chunk i is this one with i in its first bytes."""
    random = secrets.token_bytes(CHUNK_BYTES)
    found = hashlib.sha256()
    for i in range(chunks):
        found.update(_chunk(random, i))
    return f"sha256:{found.hexdigest()}", random


def _chunk(random: bytes, i: int) -> bytes:
    return i.to_bytes(8, "little") + random[8:]


async def _upload(client: Client, digest: str, random: bytes, chunks: int) -> Row:
    line, began = client.line(), monotonic()
    announced = await line.post("/blobs", {"digest": digest, "size": chunks * CHUNK_BYTES})
    path = f"/blobs/{json.loads(announced.body)['id']}"
    answers = []
    for i in range(chunks):
        headers = {"Upload-Offset": str(i * CHUNK_BYTES), "Content-Type": "application/octet-stream"}
        answers.append(await line.ask(path, headers, method="PATCH", body=_chunk(random, i), limit=LIMIT))
    took = monotonic() - began
    line.close()
    row: Row = {"case": f"{chunks} chunks of {CHUNK_BYTES // 2**20} MiB", "all, s": took}
    row |= figures.quantiles(figures.times(answers[:-1]), "chunk")
    return row | {"last chunk, ms": 1_000 * answers[-1].seconds, **figures.counts(answers)}


def _submission(target: Target) -> Row:
    """The row of `benchmarks.submission`: a client process of its own, which finds the token in its environment."""
    user = target.user()
    size = float(CHUNKS * CHUNK_BYTES)
    os.environ["NESTOR_TOKEN"] = user.client.token
    try:
        found = apart(CASE, size, target.servers[0].url)
    finally:
        del os.environ["NESTOR_TOKEN"]
    row: Row = {"case": f"study.optimize with {size / 2**30:.0f} GiB"}
    if "error" in found:
        return row | {"error": found["error"]}
    named = {"all, s": "to_submit", "first step after, s": "to_first_step", "client memory / data": "memory"}
    return row | {column: found[name] for column, name in named.items()}
