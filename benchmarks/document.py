"""Run all benchmarks and write docs/performance.md: `python -m benchmarks.document FOLDER [--quick] [--only NAME …]`.

Each benchmark runs in its own process. It leaves its rows in FOLDER/<name>.json and its caption (command, date, commit,
machine) in FOLDER/<name>.caption.txt. The document is written from these files, so one benchmark can be repeated alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from examples.provenance import ROOT, caption

DOCUMENT = ROOT / "docs" / "performance.md"
NAMES = ("hypergradient", "trajectory", "scaling", "joint", "memory", "server", "entries", "truth")


def measure(name: str, folder: Path, *, quick: bool) -> None:
    options = ["--quick"] if quick else []
    stamp = caption(f"benchmarks.{name}", options)  # before the run: the commit may change during it
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(folder / f"{name}.json"), *options]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    (folder / f"{name}.caption.txt").write_text(f"{stamp} OMP_NUM_THREADS=1.")


def document(text: str, folder: Path) -> str:
    """`text` with each table replaced for which `folder` has rows. Comments mark where a table begins and ends."""
    for name in NAMES:
        if not (folder / f"{name}.json").exists():
            continue
        rows = json.loads((folder / f"{name}.json").read_text())
        table = importlib.import_module(f"benchmarks.{name}").table(rows).strip()
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        _, after = rest.split("<!-- end -->", 1)
        stamp = (folder / f"{name}.caption.txt").read_text()
        text = f"{before}<!-- {name} -->\n\n{stamp}\n\n{table}\n\n<!-- end -->{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="pass --quick to each benchmark")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, help="measure these; none: only write")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        measure(name, options.folder, quick=options.quick)
    DOCUMENT.write_text(document(DOCUMENT.read_text(), options.folder))


if __name__ == "__main__":
    main()
