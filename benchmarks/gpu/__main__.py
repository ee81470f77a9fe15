"""Tests, trials and benchmarks on one device: `python -m benchmarks.gpu [PART …] [--quick] [--json FILE]`.

NESTOR_TEST_DEVICE names the device: "cuda" on a machine with a GPU, "cpu" to check that the parts run. Each part has
its own process and time limit. Together they take ten minutes on one GPU of 2024.

    tests           the engine's tests that run on any device
    service         trials through the service
    products        curvature products computed in four ways
    hypergradient   all methods and peer libraries on six models
    joint           the inner loop against a hand-written one, and the cost of tuning
    scaling         from a thousand hyperparameters to a billion
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import DEVICE, ON_GPU
from examples.provenance import ROOT, commit

# Part → module, arguments, arguments of --quick, time limit in seconds.
MEASURED: dict[str, tuple[str, list[str], list[str], int]] = {
    "service": ("benchmarks.gpu.service", [], ["--quick"], 120),
    "products": ("benchmarks.gpu.products", [], ["--quick"], 120),
    "hypergradient": ("benchmarks.hypergradient", ["--rounds", "3"], ["--quick", "--cases", "softmax"], 200),
    "joint": ("benchmarks.joint", ["--local"], ["--local", "--quick"], 180),
    "scaling": ("benchmarks.scaling", [], ["--most", "1000"], 180),
}
PARTS = ("tests", *MEASURED)
TESTS_LIMIT = 300  # seconds
QUICK_TESTS = "(test_derivatives and MLP) or test_too_little"


def engine_tests(*, quick: bool) -> dict[str, Any]:
    """Run the engine's tests; return their summary and failures."""
    workers = "0" if quick else str(max(1, (os.cpu_count() or 1) - 1))
    which = ["tests/engine/test_device.py", "-k", QUICK_TESTS] if quick else ["tests/engine", "-m", "not cpu"]
    options = ["--ignore=tests/engine/program", "-n", workers, "-p", "no:cacheprovider", "-p", "no:logging", "-q"]
    # Another version of torch may warn; that says nothing about the device.
    done = _python("-m", "pytest", *which, *options, "-W", "default", limit=TESTS_LIMIT)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"ended": lines[-1] if lines else done.stderr[-500:], "failed": failed, "ok": done.returncode == 0}


def measured(part: str, *, quick: bool) -> dict[str, Any]:
    """The rows of one benchmark, up to its time limit."""
    module, usual, short, limit = MEASURED[part]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        done = _python("-m", module, "--json", str(file), *(short if quick else usual), limit=limit)
        rows = json.loads(file.read_text()) if file.exists() else []
    print(importlib.import_module(module).table(rows), flush=True)
    ok = done.returncode == 0
    return {"rows": rows, "ok": ok} | ({} if ok else {"error": done.stderr.strip()[-2000:]})


def _python(*arguments: str, limit: int) -> subprocess.CompletedProcess[str]:
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    environment = os.environ | fixed
    command = [sys.executable, *arguments]
    try:
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired as late:
        output = (late.stderr or b"").decode() if isinstance(late.stderr, bytes) else str(late.stderr or "")
        return subprocess.CompletedProcess(command, 124, "", f"{output}\nTime limit of {limit} s exceeded.")


def about() -> dict[str, Any]:
    """The device, torch, commit and date of this run."""
    card = torch.cuda.get_device_name(DEVICE) if ON_GPU else platform.processor() or platform.machine()
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,memory.total", "--format=csv,noheader"]
    driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() if ON_GPU else ""
    return {
        "device": card,
        "driver, highest clock, memory": driver,
        "torch": torch.__version__,
        "commit": commit(),
        "date": date.today().isoformat(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run; all by default")
    parser.add_argument("--quick", action="store_true", help="run a small piece of each part")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    options = parser.parse_args()
    if ON_GPU and not torch.cuda.is_available():
        print("NESTOR_TEST_DEVICE is cuda, but torch finds no GPU.", file=sys.stderr)
        return 1
    found: dict[str, Any] = {"about": about()}
    print(json.dumps(found["about"], indent=1), flush=True)
    for part in options.parts or PARTS:
        began = time.monotonic()
        print(f"\n{part}", flush=True)
        found[part] = engine_tests(quick=options.quick) if part == "tests" else measured(part, quick=options.quick)
        found[part]["seconds"] = round(time.monotonic() - began)
        print(f"{part}: {'ok' if found[part]['ok'] else 'FAILED'} after {found[part]['seconds']} s", flush=True)
        for line in [found[part].get("ended"), *found[part].get("failed", []), found[part].get("error")]:
            if line:
                print(line, flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
    return 0 if all(found[part]["ok"] for part in options.parts or PARTS) else 1


if __name__ == "__main__":
    sys.exit(main())
