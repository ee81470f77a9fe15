"""docs/operations.md lists all settings."""

from __future__ import annotations

import re
from pathlib import Path

from nestor_server.settings import Settings
from nestor_worker.options import Options

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_every_setting_is_in_the_table_and_the_table_has_no_other():
    (table,) = re.findall(r"^## What to set$(.*?)^## ", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    documented = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`NESTOR_(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert documented == {name.upper() for name in Settings.model_fields.keys() | Options.model_fields.keys()}
