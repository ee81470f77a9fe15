"""Measure everything and write docs/performance.md: `python -m benchmarks.document FOLDER [--quick] [--only NAME …]`.

Each benchmark runs in a process of its own and leaves its rows in FOLDER/<name>.json; the document is made of what
lies there, so that one benchmark can be run again without the others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
NAMES = ("hypergradient", "trajectory", "scaling", "joint")


def measure(name: str, folder: Path, *, quick: bool) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(folder / f"{name}.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *(["--quick"] if quick else [])], cwd=ROOT, env=environment, check=True)
    told = {"date": date.today().isoformat(), "machine": machine(), "arguments": " --quick" if quick else ""}
    (folder / f"{name}.about.json").write_text(json.dumps(told))


def machine() -> str:
    """The processor, the operating system's kind, and torch."""
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = named[0].partition(":")[2].strip() if named else platform.processor()
    return f"{model}, {os.cpu_count()} processors, torch {torch.__version__}, one thread"


def document(text: str, folder: Path) -> str:
    """`text` with the tables between its marks replaced by those of what lies in `folder`."""
    for name in NAMES:
        if not (folder / f"{name}.json").exists():
            continue
        rows = json.loads((folder / f"{name}.json").read_text())
        about = json.loads((folder / f"{name}.about.json").read_text())
        head = f"`python -m benchmarks.{name}{about['arguments']}`; {about['date']}; {about['machine']}."
        made = f"{head}\n\n{importlib.import_module(f'benchmarks.{name}').table(rows).strip()}"
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        _, after = rest.split("<!-- end -->", 1)
        text = f"{before}<!-- {name} -->\n\n{made}\n\n<!-- end -->{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="hand it on to each")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, help="measure these; none to write only")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        measure(name, options.folder, quick=options.quick)
    DOCUMENT.write_text(document(DOCUMENT.read_text(), options.folder))


if __name__ == "__main__":
    main()
