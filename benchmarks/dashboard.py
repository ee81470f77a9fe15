"""The dashboard in a browser: `python -m benchmarks.dashboard [--json FILE] [--quick]`.

Chromium, a server and PostgreSQL of this machine. Each page is opened in a new profile, so nothing is cached.

    seconds     from the request for the address until the loss curve, or the table of hyperparameters, is drawn
    bytes       that the browser received, with headers and as they were compressed; `api`: those of the REST API alone
    tick        milliseconds of the browser's main thread for one poll of a running trial that has taken a step
    heap        megabytes of JavaScript objects after a garbage collection, before and after the polls of an hour
    hidden      requests of a tab that is hidden

An hour is 1,800 polls of a trial that takes a step in each. The page's clock runs faster by `SPEED`, so that they take
minutes: timers are shorter and ages grow by the same factor.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import torch
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from torch import nn
from torch.nn import functional as F

import nestor
from benchmarks.rows import Row, collected, shared_options
from benchmarks.server import filling
from examples.provenance import caption
from nestor.hparams import L2
from nestor_server.scheduling import leases, recording
from testbed.server import Server, running_server
from testbed.services import running_services
from testbed.worker import running_worker

STEPS = (30, 10_000, 100_000)
SIZES = {1_000: (31, 31), 10_000_000: (3_162, 3_161)}  # entries: rows and columns of the matrix that has them
POLLS, SPEED = 1_800, 20
REPEATED = 5
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
FASTER = f"""
  const [timer, now, start] = [window.setTimeout, Date.now, Date.now()];
  window.setTimeout = (run, ms, ...args) => timer(run, ms / {SPEED}, ...args);
  Date.now = () => start + (now() - start) * {SPEED};
"""
HIDDEN = "Object.defineProperty(document, 'hidden', { get: () => window.isHidden === true })"
TURN = "(hidden) => { window.isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')); }"
CURVE = (".slot-losses [data-steps]",)
TENSORS = ("table.tensors tbody tr", ".slot-tensor canvas")


class Tab:
    """A page in a new profile, and what it receives."""

    def __init__(self, browser: Browser, server: Server, token: str, *scripts: str) -> None:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.page: Page = context.new_page()
        self.cdp: CDPSession = context.new_cdp_session(self.page)
        self.requests: dict[str, str] = {}  # addresses by id
        self.received: dict[str, int] = {}  # bytes by id
        self.cdp.on(
            "Network.requestWillBeSent", lambda sent: self.requests.update({sent["requestId"]: sent["request"]["url"]})
        )
        self.cdp.on("Network.loadingFinished", self._finished)
        for domain in ("Network", "Performance", "HeapProfiler"):
            self.cdp.send(f"{domain}.enable")
        for script in scripts:
            self.page.add_init_script(script)
        # The cookie alone, so that no file of the page is known yet.
        context.request.post(f"{server.url}/api/v1/session", data={"token": token}, headers={"X-Nestor-Request": "1"})

    def _finished(self, loaded: dict[str, Any]) -> None:
        self.received[loaded["requestId"]] = int(loaded["encodedDataLength"])

    def open(self, address: str, drawn: Iterable[str]) -> float:
        """Seconds until all of `drawn`, which are selectors, are there."""
        began = time.perf_counter()
        self.page.goto(address, wait_until="commit")
        for selector in drawn:
            self.page.wait_for_selector(selector, state="attached", timeout=120_000)
        return time.perf_counter() - began

    def bytes(self, part: str = "") -> int:
        return sum(size for request, size in self.received.items() if part in self.requests.get(request, ""))

    def metric(self, name: str) -> float:
        return next(one["value"] for one in self.cdp.send("Performance.getMetrics")["metrics"] if one["name"] == name)

    def heap(self) -> float:
        """Megabytes of objects that are in use."""
        for _ in range(3):
            self.cdp.send("HeapProfiler.collectGarbage")
        return self.metric("JSHeapUsedSize") / 1e6


@contextmanager
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise SystemExit("No browser was found. Install Chromium (Debian: apt-get install chromium).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


class Trials:
    """Trials of one user, filled with steps by SQL, or trained by a worker."""

    def __init__(self, server: Server) -> None:
        self.server, self.token = server, server.new_token()
        self.http = server.http(self.token)

    def with_steps(self, n: int) -> tuple[str, leases.Lease]:
        """A running trial with so many steps."""
        name = {"name": f"{n} steps", "load_if_exists": True}
        study = self.http.post("/studies", json=name).raise_for_status().json()["id"]
        new = {"problem": {"preset": {}}, "n_steps": 2 * n + POLLS}
        trial = self.http.post(f"/studies/{study}/trials", json=new).raise_for_status().json()["id"]
        with self.server.sessions.begin() as session:
            lease = leases.claim(session, UUID(trial), "benchmark")
            assert lease is not None
            filling.steps(session, UUID(trial), n)
        return trial, lease

    def with_hyperparameters(self, shape: tuple[int, int]) -> str:
        """A complete trial that has tuned the decay of each weight of one layer."""
        torch.manual_seed(0)
        rows, columns = shape
        net = nn.Linear(columns, rows)
        x, y = torch.randn(32, columns), torch.randn(32, rows)
        loss = lambda outputs, batch: F.mse_loss(outputs, batch["y"])
        problem = nestor.Problem(
            net, L2(net, per="weight", init=-6.0), loss, loss, train=(x[:16], y[:16]), val=(x[16:], y[16:])
        )
        study = nestor.create_study(f"{rows} × {columns}", server=self.server.url, token=self.token)
        trial = study.optimize(problem, 10, inner=nestor.Adam(1e-3), outer=nestor.Adam(0.2), show_progress_bar=False)
        return str(trial.id)

    def take_steps(self, lease: leases.Lease, numbers: Iterator[int]) -> Callable[[], None]:
        def take() -> None:
            with self.server.sessions.begin() as session:
                leases.renew(session, lease)
                recording.record(session, lease, recording.RecordedBatch(steps=(filling.step(next(numbers)),)))

        return take


def opened(browser: Browser, trials: Trials, what: str, size: int, trial: str, drawn: Iterable[str]) -> Row:
    """Medians of several first visits."""
    found: list[tuple[float, int, int]] = []
    for _ in range(REPEATED):
        tab = Tab(browser, trials.server, trials.token)
        seconds = tab.open(f"{trials.server.url}/#/trials/{trial}", drawn)
        tab.page.wait_for_load_state("networkidle")
        found.append((seconds, tab.bytes(), tab.bytes("/api/")))
        tab.page.context.close()
    seconds, total, api = (statistics.median(values) for values in zip(*found, strict=True))
    return {
        "what": what,
        "size": size,
        "seconds": seconds,
        "slowest": max(one[0] for one in found),
        "bytes": total,
        "api": api,
    }


def polled(browser: Browser, trials: Trials, polls: int) -> Iterator[Row]:
    """A tab that is left open beside a trial that takes a step in each poll."""
    trial, lease = trials.with_steps(10_000)
    take = trials.take_steps(lease, itertools.count(10_001))
    tab = Tab(browser, trials.server, trials.token, FASTER, HIDDEN)
    tab.open(f"{trials.server.url}/#/trials/{trial}", CURVE)
    for _ in range(20):  # until all panels are drawn
        tab.page.mouse.wheel(0, 400)
        tab.page.wait_for_timeout(100)

    def poll(n: int) -> None:
        for _ in range(n):
            take()
            with tab.page.expect_response(lambda response: "/steps?" in response.url, timeout=60_000):
                pass

    poll(50)
    before, busy = tab.heap(), tab.metric("TaskDuration")
    poll(polls)
    ticks = 1000 * (tab.metric("TaskDuration") - busy) / polls
    yield {"what": "main thread of a poll, ms", "size": polls, "tick": ticks}
    yield {"what": "heap before and after, MB", "size": polls, "before": before, "after": tab.heap()}
    tab.page.evaluate(TURN, True)
    tab.page.wait_for_timeout(1_000)
    sent = len(tab.requests)
    take()
    tab.page.wait_for_timeout(10_000)
    yield {"what": f"requests while hidden, in {10 * SPEED} s", "size": 0, "hidden": len(tab.requests) - sent}


def rows(*, quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    with running_services() as services, running_server(services, redis_db=1, lease_seconds=3_600) as server:
        trials = Trials(server)
        with chromium() as browser:
            for n in STEPS:
                trial, _ = trials.with_steps(n)
                yield opened(browser, trials, "steps", n, trial, CURVE)
            yield from polled(browser, trials, 100 if quick else POLLS)
            with running_worker(server):
                for size, shape in SIZES.items():
                    trial = trials.with_hyperparameters(shape)
                    yield opened(browser, trials, "hyperparameters", size, trial, TENSORS)


def table(found: list[Row]) -> str:
    lines = ["| what | size | s | slowest, s | kB | of the API, kB |", "|---|---|---|---|---|---|"]
    for row in found:
        if "seconds" in row:
            figures = (
                f"{row['seconds']:.2f} | {row['slowest']:.2f} | {row['bytes'] / 1e3:,.0f} | {row['api'] / 1e3:,.0f}"
            )
            lines.append(f"| {row['what']} | {row['size']:,} | {figures} |")
    lines += ["", "| what | polls | figure |", "|---|---|---|"]
    for row in found:
        if "seconds" not in row:
            figures = [f"{value:,.1f}" for name, value in row.items() if name not in ("what", "size")]
            lines.append(f"| {row['what']} | {row['size'] or ''} | {' → '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    options = shared_options(__doc__, quick="100 polls").parse_args()
    found = collected(rows(quick=options.quick), options.json)
    print(f"{caption('benchmarks.dashboard')}\n\n{table(found)}")


if __name__ == "__main__":
    main()
