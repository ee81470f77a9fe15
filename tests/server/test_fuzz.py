"""Requests that are made up from /openapi.json find no failure, and no answer that it does not describe.

First single requests, then sequences that follow the links from one answer to the next request. `make fuzz SEED=2` goes
on for longer, with other requests, and with every limit of every schema.
"""

from __future__ import annotations

import re

from testbed.fuzzing import fuzz
from testbed.server import running_server
from testbed.services import Services

BROKER = 14  # a database of Valkey that no other test uses: these trials are many
SEED = 7


def test_made_up_requests_get_the_answers_that_are_described(services: Services):
    with running_server(services, redis_db=BROKER, max_blob_bytes=32 * 2**20) as server:
        single = fuzz(server, seed=SEED, examples=4, phases="examples,fuzzing")
        in_turn = fuzz(server, seed=SEED, examples=60, phases="stateful")
    for report in (single, in_turn):
        assert not report.found_something, report.text
    followed = re.search(r"API Links: +(\d+) covered", in_turn.text)
    assert followed is not None
    assert int(followed[1]) > 0
