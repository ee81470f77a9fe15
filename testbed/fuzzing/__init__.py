"""Requests by schemathesis, made up from /openapi.json: no answer may be a failure, or one that is not described."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from nestor.schemas import Scope
from testbed.server import Server

HERE = Path(__file__).parent
# Checks in hooks.py are in their place.
EXCLUDED_CHECKS = "positive_data_acceptance,negative_data_rejection"


@dataclass(frozen=True)
class Report:
    """What schemathesis found, as it prints it."""

    found_something: bool
    text: str


def fuzz(server: Server, *, seed: int, examples: int, seconds: int | None = None, phases: str = "all") -> Report:
    """Send requests as a user of its own with the scope admin. Whatever the seed, they create and delete a lot.

    Args:
        examples: the most for each operation, in each phase.
        seconds: fuzzing and stateful testing go on for so long; None: until they have had their examples.
        phases: of schemathesis, separated by commas.
    """
    token = server.new_token(scope=Scope.admin)
    headers = {"Authorization": f"Bearer {token}"}
    own = httpx.get(f"{server.url}/api/v1/tokens", headers=headers, trust_env=False).json()["items"][0]["id"]
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml"]
    command += ["run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {token}"]
    command += ["--header", "Accept: application/json"]  # events as a page, not as a stream, which ends with the trial
    command += ["--checks", "all", "--exclude-checks", EXCLUDED_CHECKS, "--seed", str(seed)]
    command += ["--max-examples", str(examples), "--continue-on-failure"]
    command += ["--max-time", str(seconds)] if seconds else []
    command += ["--phases", phases] if phases != "all" else []
    environment = os.environ | {"NO_COLOR": "1", "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py"), "NESTOR_OWN_TOKEN": own}
    done = subprocess.run(command, cwd=server.log.parent, env=environment, capture_output=True, text=True, check=False)
    return Report(done.returncode != 0, done.stdout + done.stderr)
