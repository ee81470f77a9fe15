"""Files of others that Nestor ships are those of the version that their README names, and no more."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENDOR = ROOT / "server" / "nestor_server" / "dashboard" / "vendor"


@pytest.mark.parametrize("folder", sorted(VENDOR.iterdir()), ids=lambda folder: folder.name)
def test_every_file_is_the_one_whose_digest_is_listed(folder: Path):
    readme = (folder / "README.md").read_text()
    listed = dict(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    del found["README.md"]
    assert found == listed, "run `make vendor`"
    assert re.match(r"# .* \d+\.\d+\.\d+\n", readme)
    assert "LICENSE" in listed
    assert re.search(r"^The license is (Apache-2.0|MIT|BSD-3-Clause) \(`LICENSE`", readme, re.MULTILINE)


def test_the_pages_load_nothing_from_other_hosts():
    pages = [path for path in (VENDOR.parent).rglob("*.html") if VENDOR not in path.parents]
    assert {page.parent.name for page in pages} == {"dashboard", "docs"}
    for page in pages:
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.read_text())
        assert loaded
        for target in loaded:
            assert "//" not in target
            assert target.startswith(("#", "../openapi.json", "data:")) or (page.parent / target).exists(), target
