"""Tests, trials and benchmarks on one device: `python -m benchmarks.gpu [PART …] [--quick] [--json FILE]`.

NESTOR_TEST_DEVICE names the device: "cuda" on a machine with a GPU, "cpu" to check that the parts run. Together the
parts end within ten minutes, whether or not everything is measured by then.

    tests           the engine's tests that run on any device
    service         trials through the service, at the same time as the tests
    hypergradient   all methods and peer libraries on six models
    joint           the inner loop against a hand-written one, and the cost of tuning
    products        curvature products computed in four ways
    scaling         from a thousand hyperparameters to a billion

The benchmarks consist of jobs, such as one model. The jobs prepare side by side, because tracing keeps one processor
core busy, and then measure one after the other. Each job has a time limit. A job that exceeds it keeps the rows that
it wrote. Jobs for which no time is left are named as such, and are no failures.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks import joint, scaling
from benchmarks.measuring import DEVICE, ON_GPU, TURNS
from benchmarks.models import MODELS
from examples.provenance import ROOT, commit
from nestor_worker.supervisor.runners.process import ALLOCATION, REPEATABLE

Result = dict[str, Any]

TOTAL = 535  # seconds of all parts
TESTS_LIMIT = 300  # seconds
SERVICE_LIMIT = 240  # seconds, beside the tests
PREPARE_LIMIT = 120  # seconds of the preparations, which run side by side
QUICK_LIMIT = 300  # seconds of each job of --quick
QUICK_TESTS = "(test_derivatives and MLP) or test_too_little"
BENCHMARKS = ("hypergradient", "joint", "products", "scaling")
PARTS = ("tests", "service", *BENCHMARKS)


@dataclass
class Job:
    """A piece of a benchmark in its own process.

    Attributes:
        limit: seconds of its measurement.
        folder: its output and rows, and the files of `measuring.wait_for_turn`.
    """

    part: str
    name: str
    arguments: list[str]
    limit: int
    folder: Path = field(default_factory=Path)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def module(self) -> str:
        return f"benchmarks.{'gpu.' if self.part == 'products' else ''}{self.part}"

    def start(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        command = [sys.executable, "-m", self.module, "--json", str(folder / "rows.json"), *self.arguments]
        environment = _environment() | self.environment | {TURNS: str(folder)}
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err, text=True)

    @property
    def waits(self) -> bool:
        """Whether it does not prepare any more."""
        return (self.folder / "ready").exists() or self.process is None or self.process.poll() is not None

    def measure(self, limit: float) -> Result:
        """Let it measure; its rows, and why they are not all."""
        assert self.process is not None
        (self.folder / "go").touch()
        began, error = time.monotonic(), None
        try:
            if self.process.wait(limit):
                error = (self.folder / "stderr").read_text().strip()[-2000:]
        except subprocess.TimeoutExpired:
            error = f"stopped after {limit:.0f} s"
            self.stop()
        file = self.folder / "rows.json"
        rows = json.loads(file.read_text()) if file.exists() else []
        return {"rows": rows, "error": error, "seconds": round(time.monotonic() - began)}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def jobs(part: str, *, quick: bool) -> list[Job]:
    """The jobs of a benchmark, the important ones first."""
    if part == "hypergradient":
        if quick:
            return [Job(part, "softmax", ["--quick", "--cases", "softmax"], QUICK_LIMIT)]
        seconds = {"softmax": 10, "mlp": 10, "cnn": 20, "resnet18": 45, "lstm": 30, "transformer": 25}
        # Without errors: the tests compare all methods, and errors take longer than the rest.
        usual = ["--no-errors", "--rounds", "3", "--prepare", str(PREPARE_LIMIT - 30)]
        return [
            Job(part, name, [*usual, "--cases", name, "--seconds", str(seconds[name])], seconds[name] + 30)
            for name in MODELS
        ]
    if part == "joint":
        if quick:
            return [Job(part, "mlp", ["--local", "--quick"], QUICK_LIMIT)]
        return [Job(part, name, ["--local", "--cases", name], 45) for name in joint.LENGTHS]
    if part == "products":
        if quick:
            return [Job(part, "mlp", ["--quick"], QUICK_LIMIT)]
        return [Job(part, name, ["--cases", name], 30) for name in MODELS]
    return [
        Job(part, f"{size:,}", ["--size", str(size)], QUICK_LIMIT if quick else 60, environment=ALLOCATION)
        for size in scaling.SIZES[: 1 if quick else None]
    ]


def run_benchmarks(parts: Sequence[str], *, quick: bool, end: float) -> Iterator[tuple[str, Result]]:
    """The results of each part as it ends.

    Args:
        end: on `time.monotonic`; what cannot begin before it is not measured.
    """
    todo = {part: jobs(part, quick=quick) for part in parts}
    every = [job for some in todo.values() for job in some]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nestor-gpu-")))
        for number, job in enumerate(every):
            job.start(folder / str(number))
            stack.callback(job.stop)
        began = time.monotonic()
        limit = QUICK_LIMIT if quick else PREPARE_LIMIT
        while not all(job.waits for job in every) and time.monotonic() - began < limit:
            time.sleep(0.1)
        print(f"\nprepared {sum(job.waits for job in every)} of {len(every)} jobs in {_since(began)} s", flush=True)
        late = [job for job in every if not job.waits]
        for job in late:
            job.stop()
        for part, some in todo.items():
            result: Result = {"rows": [], "jobs": {}, "left_out": [], "ok": True}
            for job in some:
                left = end - time.monotonic()
                if job in late or left < 1:
                    result["left_out"].append(
                        f"{job.name}: " + ("not prepared in time" if job in late else "no time left")
                    )
                    continue
                found = job.measure(min(job.limit, left))
                result["rows"] += found.pop("rows")
                result["jobs"][job.name] = found
                stopped = str(found["error"]).startswith("stopped after")
                result["ok"] = result["ok"] and (found["error"] is None or stopped)
            result["seconds"] = sum(found["seconds"] for found in result["jobs"].values())
            yield part, result


def engine_tests(*, quick: bool) -> Result:
    """Run the engine's tests; return their summary and failures."""
    workers = "0" if quick else str(max(1, (os.cpu_count() or 1) - 2))
    which = ["tests/engine/test_device.py", "-k", QUICK_TESTS] if quick else ["tests/engine", "-m", "not cpu"]
    options = ["--ignore=tests/engine/program", "-n", workers, "-p", "no:cacheprovider", "-p", "no:logging", "-q"]
    # Another version of torch may warn; that says nothing about the device.
    done = _python("-m", "pytest", *which, *options, "-W", "default", "--durations", "10", limit=TESTS_LIMIT)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    ended = lines[-1] if lines else done.stderr[-500:]
    return {"ended": ended, "failed": failed, "output": done.stdout, "ok": done.returncode == 0}


def service(*, quick: bool) -> Result:
    """The rows of the trials through the service."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        quickly = ["--quick"] if quick else []
        done = _python("-m", "benchmarks.gpu.service", "--json", str(file), *quickly, limit=SERVICE_LIMIT)
        rows = json.loads(file.read_text()) if file.exists() else []
    ok = done.returncode == 0
    return {"rows": rows, "ok": ok} | ({} if ok else {"error": done.stderr.strip()[-2000:]})


def _environment() -> dict[str, str]:
    return os.environ | REPEATABLE | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _python(*arguments: str, limit: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=_environment(), stdout=out, stderr=err, check=False, timeout=limit
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
            err.write(f"\nTime limit of {limit} s exceeded.")
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def _since(began: float) -> int:
    return round(time.monotonic() - began)


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
    parser.add_argument("--seconds", type=int, default=TOTAL, help=f"of all parts; {TOTAL} by default")
    options = parser.parse_args()
    if ON_GPU and not torch.cuda.is_available():
        print("NESTOR_TEST_DEVICE is cuda, but torch finds no GPU.", file=sys.stderr)
        return 1
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    end = time.monotonic() + (len(parts) * QUICK_LIMIT if options.quick else options.seconds)
    found: dict[str, Any] = {"about": about()}
    print(json.dumps(found["about"], indent=1), flush=True)

    def keep(part: str, result: Result) -> None:
        found[part] = result
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
        _report(part, result)

    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        running = {
            part: pool.submit(function, quick=options.quick)
            for part, function in (("tests", engine_tests), ("service", service))
            if part in parts
        }
        for part, result in running.items():
            keep(part, result.result() | {"seconds": _since(began)})
    for part, result in run_benchmarks([p for p in BENCHMARKS if p in parts], quick=options.quick, end=end):
        keep(part, result)
    return 0 if all(found[part]["ok"] for part in parts) else 1


def _report(part: str, result: Result) -> None:
    print(f"\n{part}", flush=True)
    if "rows" in result:
        module = "benchmarks.gpu." if part in ("service", "products") else "benchmarks."
        print(importlib.import_module(f"{module}{part}").table(result["rows"]))
    print(f"{part}: {'ok' if result['ok'] else 'FAILED'} after {result['seconds']} s")
    errors = [f"{name}: {job['error']}" for name, job in result.get("jobs", {}).items() if job["error"]]
    for line in [
        *(result.get("ended"), *result.get("failed", ()), result.get("error")), *errors, *result.get("left_out", ())
    ]:  # fmt: skip
        if line:
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
