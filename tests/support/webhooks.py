"""The check of signatures that the documentation shows to receivers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


def documented_verify(secret: str, headers: Mapping[str, str], body: bytes) -> Any:
    """`verify` as the page has it."""
    page = Sybil([PythonCodeBlockParser()]).parse(PAGE)
    (example,) = [one for one in page.examples() if "def verify" in one.parsed]
    example.evaluate()
    return page.namespace["verify"](secret, headers, body)
