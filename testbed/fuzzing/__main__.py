"""`python -m testbed.fuzzing SEED [--seconds N]`: made-up requests to a new server, and calls of operators.

The operators are those of programs and of saved traces. It prints what was found.
"""

from __future__ import annotations

import argparse
import sys

from testbed.fuzzing import fuzz, operators
from testbed.server import running_server
from testbed.services import running_services


def main() -> None:
    """Exit with 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int, help="the same seed sends the same first requests")
    parser.add_argument("--seconds", type=int, default=600, help="of fuzzing and stateful testing; default: 600")
    parser.add_argument("--examples", type=int, default=50, help="for each operation, in each phase; default: 50")
    parser.add_argument("--operator-seconds", type=int, default=300, help="of calls of operators; default: 300")
    given = parser.parse_args()
    calls = operators.fuzz(given.seed, seconds=given.operator_seconds, of="trace")
    print(calls)
    with running_services() as services, running_server(services, max_blob_bytes=32 * 2**20) as server:
        report = fuzz(server, seed=given.seed, examples=given.examples, seconds=given.seconds)
    print(report.text)
    sys.exit(report.found_something or bool(calls.fatal))


if __name__ == "__main__":
    main()
