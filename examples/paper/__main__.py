"""`python -m examples.paper NAME`: run an experiment of the slides through the service."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from examples.data import IMAGES, DataMissing
from examples.paper import EXPERIMENTS
from examples.paper.lab import Lab
from examples.provenance import caption, commit, machine
from examples.service import running_service


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    torch.set_num_threads(1)  # the service trains at the same time
    names = EXPERIMENTS if options.name == "all" else (options.name,)
    results = []
    try:
        with running_service() as server:
            print(f"Nestor runs at {server}")
            for name in names:
                lab = Lab(name, server, options.size, options.output / name, tuple(options.data))
                began = time.monotonic()
                importlib.import_module(f"examples.paper.{name}").run(lab)
                results.append(_result(lab, given, time.monotonic() - began))
                if options.json:  # after each experiment, so that a later failure loses nothing
                    options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    except DataMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _result(lab: Lab, arguments: list[str], seconds: float) -> dict:
    print(f"\n{caption('examples.paper', arguments)} {lab.name} took {seconds:.0f} s.")
    return {
        "experiment": lab.name,
        "command": " ".join(["python -m examples.paper", *arguments]),
        "size": lab.size,
        "commit": commit(),
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine(),
        "seconds": round(seconds),
        "findings": lab.findings,
        "files": lab.files,
        "rows": lab.rows,
    }


def _parser() -> argparse.ArgumentParser:
    summaries = (
        f"  {name:10} {(importlib.import_module(f'examples.paper.{name}').__doc__ or '').splitlines()[0]}"
        for name in EXPERIMENTS
    )
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper",
        description="Run an experiment of the slides through the service: the one of NESTOR_SERVER, the one that "
        "runs on this machine, or a new one.\n\n" + "\n".join(summaries),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=(*EXPERIMENTS, "all"), metavar="NAME", help="an experiment, or all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick", help="in under a minute")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="the slides' sizes; on a GPU")
    parser.set_defaults(size="usual")
    parser.add_argument(
        "--data", action="append", default=[], choices=IMAGES, help="an image data set; may be given several times"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every row here")
    parser.add_argument("--output", type=Path, default=Path("paper-output"), help="directory of pictures and curves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
