"""The modules of the dashboard that need no browser, each by the *.test.js of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.node import node

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.js")), ids=lambda file: file.name)
def test_a_module_does_what_its_tests_say(file: Path):
    run = node(HERE, "--test", "--test-reporter=tap", file)
    assert run.returncode == 0, run.stdout
    assert "# pass 0" not in run.stdout
