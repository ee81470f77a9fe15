"""Single entries of large hyperparameters: `python -m benchmarks.entries [--json FILE] [--quick] [--entries N]`.

A trial on a server of this machine has eleven snapshots of a matrix with N entries in float32, and of 100 pictures of
3 × 28 × 28. Another trial has 1,000 entries at 1,000 steps. Each row is one read, by one client.

    seconds    the median of five answers after the first; no client has the present version
    slowest    the slowest of all six
    bytes      of the answer
    memory     what the server's peak memory grew by during the row

The rows "worker" are of this process: what the entries of one snapshot take that are recorded with it, the
serialization and the writing of the snapshot itself, and the bytes in the database.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import safetensors.torch
import torch
from sqlalchemy import func, select

from benchmarks.measuring import one_thread
from benchmarks.rows import Row, collected, shared_options
from examples.provenance import caption
from nestor.schemas import HyperparameterInfo
from nestor_server.models import Snapshot
from nestor_server.scheduling import leases, recording
from nestor_worker.channel import write_file
from nestor_worker.runner.recorded_entries import recorded_entries
from testbed.server import Server, running_server
from testbed.services import running_services

REPEATED = 5
SNAPSHOTS = 10  # of the large trial, after the first
STEPS, SMALL = 1_000, 1_000  # of the small trial, and its entries

LARGE_READS = {
    "top by change": "matrix/top?by=change&k=32",
    "top by gradient": "matrix/top?by=gradient&k=32",
    "values of 1 entry": "matrix/values?index=17",
    "values of 100 entries": f"matrix/values?index={','.join(str(i * 9_973) for i in range(100))}",
    "slice of 10 rows": "matrix?slice=10:20",
    "slice of a column": "matrix?slice=:,5",
    "100 pictures": "pictures/image.png?scale=3",
    "heat map": "matrix/image.png",
    "heat map at scale 4": "matrix/image.png?scale=4",
}
SMALL_READS = {
    "values of 1 entry at 1,001 steps": "weights/values?index=17",
    "values of 9 entries at 1,001 steps": f"weights/values?index={','.join(map(str, range(9)))}",
    "values of 100 entries at 100 steps": f"weights/values?index={','.join(map(str, range(100)))}",
}


class Recorder:
    """A claimed trial of a new user, and a client who reads it."""

    def __init__(self, server: Server) -> None:
        self.sessions, self.http = server.sessions, server.http(server.new_token())
        study = self.http.post("/studies", json={"name": "entries"}).raise_for_status().json()["id"]
        new = {"problem": {"preset": {}}, "n_steps": STEPS}
        trial = self.http.post(f"/studies/{study}/trials", json=new).raise_for_status().json()["id"]
        self.id, self.path = UUID(trial), f"/trials/{trial}/hyperparameters"
        with self.sessions.begin() as session:
            lease = leases.claim(session, self.id, "benchmark")
        assert lease is not None
        self._lease, self._next, self._start = lease, 0, dict[str, torch.Tensor]()

    def record(self, *snapshots: dict[str, torch.Tensor]) -> None:
        """The next snapshots, with the entries that stand out; the gradient is the value."""
        first = snapshots[0]
        files: list[recording.TensorFile] = []
        for tensors in snapshots:
            self._start = self._start or tensors
            step = self._next
            entries = recorded_entries(tensors, self._start, tensors if step else {}, dict.fromkeys(tensors, "exp"))
            files.append(recording.TensorFile(step, safetensors.torch.save(tensors), entries=entries))
            self._next += 1
        infos = tuple(
            HyperparameterInfo(
                name=name, shape=tuple(t.shape), dtype="float32", transform="exp", axes=("row", "column")[: t.ndim]
            )
            for name, t in first.items()
        )
        with self.sessions.begin() as session:
            leases.renew(session, self._lease)
            recording.record(
                session, self._lease, recording.RecordedBatch(snapshots=tuple(files), hyperparameters=infos)
            )

    _next = 0


@contextmanager
def peak(pid: int) -> Iterator[list[int]]:
    """The growth of a process's peak memory in bytes, in a list."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM starts again from here
    before, grown = _status(pid, "VmRSS"), list[int]()
    yield grown
    grown.append(_status(pid, "VmHWM") - before)


def _status(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def read(server: Server, trial: Recorder, name: str, path: str, entries: int) -> Row:
    def get() -> httpx.Response:
        return trial.http.get(f"{trial.path}/{path}").raise_for_status()

    assert server.process is not None
    nbytes = len(get().content)
    with peak(server.process.pid) as grown:
        taken = [timed(get) for _ in range(REPEATED)]
    return {
        "what": name,
        "entries": entries,
        "seconds": statistics.median(taken),
        "slowest": max(taken),
        "bytes": nbytes,
        "memory": grown[0],
    }


def of_worker(entries: int, tensors: dict[str, torch.Tensor]) -> Iterator[Row]:
    """What recording costs beside the snapshot itself."""
    start, gradient = ({name: torch.randn_like(t) for name, t in tensors.items()} for _ in range(2))
    find = lambda: recorded_entries(tensors, start, gradient, dict.fromkeys(tensors, "exp"))
    found = find()
    nbytes = len(json.dumps(found))
    with tempfile.TemporaryDirectory() as folder:
        write = lambda: write_file(Path(folder), "snapshot", safetensors.torch.save(tensors))
        for name, action, size in (
            ("worker: find the entries", find, nbytes),
            ("worker: serialize and write the snapshot", write, sum(t.nbytes for t in tensors.values())),
        ):
            taken = [timed(action) for _ in range(REPEATED)]
            seconds = {"seconds": statistics.median(taken), "slowest": max(taken)}
            yield {"what": name, "entries": entries, **seconds, "bytes": size, "memory": None}


def rows(entries: int) -> Iterator[Row]:
    one_thread()
    torch.manual_seed(0)
    columns = 4_000
    shape = (max(100, entries // columns), columns)

    def snapshot() -> dict[str, torch.Tensor]:
        return {"matrix": torch.randn(shape), "pictures": torch.randn(100, 3, 28, 28)}

    yield from of_worker(entries, snapshot())
    with running_services() as services, running_server(services, redis_db=1, lease_seconds=3_600) as server:
        large, small = Recorder(server), Recorder(server)
        for _ in range(SNAPSHOTS + 1):
            large.record(snapshot())
        walk = torch.randn(STEPS + 1, SMALL).cumsum(0)
        small.record(*({"weights": values.clone()} for values in walk))
        for name, path in LARGE_READS.items():
            yield read(server, large, name, path, entries)
        for name, path in SMALL_READS.items():
            yield read(server, small, name, path, SMALL)
        with server.sessions() as session:
            stored = select(func.avg(func.pg_column_size(Snapshot.entries)))
            for trial, n in ((large, entries), (small, SMALL)):
                size = session.scalar(stored.where(Snapshot.trial_id == trial.id, Snapshot.step > 0))
                what = {"what": "database: entries of one snapshot", "entries": n, "seconds": None, "slowest": None}
                yield {**what, "bytes": int(size or 0), "memory": None}
        large.http.close()
        small.http.close()


def table(rows: list[Row]) -> str:
    lines = ["| what | entries | ms | slowest, ms | kB | memory, MB |", "|---|---|---|---|---|---|"]
    shown = lambda value, unit, digits: "" if value is None else f"{value / unit:,.{digits}f}"
    for row in rows:
        times = f"{shown(row['seconds'], 1e-3, 0)} | {shown(row['slowest'], 1e-3, 0)}"
        sizes = f"{shown(row['bytes'], 1e3, 1)} | {shown(row['memory'], 1e6, 0)}"
        lines.append(f"| {row['what']} | {row['entries']:,} | {times} | {sizes} |")
    return "\n".join(lines)


def main() -> None:
    parser = shared_options(__doc__, quick="a matrix of a million entries")
    parser.add_argument("--entries", type=int, default=10_000_000, help="of the matrix")
    options = parser.parse_args()
    found = collected(rows(1_000_000 if options.quick else options.entries), options.json)
    print(f"{caption('benchmarks.entries')}\n\n{table(found)}")


if __name__ == "__main__":
    main()
