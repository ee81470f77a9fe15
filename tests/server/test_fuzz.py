"""Requests that are made up from /openapi.json find no failure, and no answer that it does not describe.

`make fuzz SEED=2` goes on for longer, with others.
"""

from __future__ import annotations

from testbed.fuzzing import fuzz
from testbed.server import running_server
from testbed.services import Services

BROKER = 14  # a database of Valkey that no other test uses: these trials are many
SEED = 7


def test_made_up_requests_get_the_answers_that_are_described(services: Services):
    with running_server(services, redis_db=BROKER, max_blob_bytes=32 * 2**20) as server:
        report = fuzz(server, seed=SEED, examples=2)
    assert not report.found_something, report.text
    assert "API Links" in report.text  # it has followed some
