"""From `study.optimize` to the first step: `python -m benchmarks.submission [--json FILE] [--quick] [--gigabytes G]`.

Each row is a client process of its own that submits a problem to a service on this machine.

    to_submit       seconds of `optimize(wait=False)`: check, export, upload and submission
    to_first_step   seconds from the call of `optimize` to the first step that a worker recorded
    sent            bytes that the client sent
    memory          peak memory of the client above that of the imports, as a multiple of the data set's bytes;
                    the target is 1.3 for a large data set. None for small ones

The data set by value is in the client's memory, and is uploaded. By reference, it is a file that worker and client map.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from benchmarks.measuring import one_thread, status
from benchmarks.models import MODELS
from benchmarks.rows import Row, collected, in_own_process, shared_options
from examples.provenance import caption
from examples.service import running_service
from nestor.hparams import L2

FEATURES = 256
LARGE = 64 * 1024**2  # bytes of data from which memory is compared with them


def cnn(size: float) -> nestor.Problem:
    """A small convolutional network on 128 images."""
    del size
    return _of(*MODELS["cnn"](128))


def bert(size: float) -> nestor.Problem:
    """BERT-tiny: two layers of width 128, on 64 texts of 64 tokens."""
    del size
    from testbed.vision import transformers  # takes seconds to import

    library: Any = transformers
    config = library.BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    model: nn.Module = library.BertForSequenceClassification(config)
    ids, y = torch.randint(0, 1000, (64, 64)), torch.randint(0, 2, (64,))
    loss: Callable[..., Tensor] = lambda outputs, batch: F.cross_entropy(outputs.logits, batch["y"])
    split = {"ids": ids, "y": y}
    return nestor.Problem(
        model, L2(model, per="tensor"), loss, loss, train=split, val=split, inputs={"input_ids": "ids"}
    )


def by_value(size: float) -> nestor.Problem:
    """A linear model on `size` bytes of features in memory."""
    rows = int(size / FEATURES / 4)
    return _of(nn.Linear(FEATURES, 10), torch.rand(rows, FEATURES), torch.arange(rows) % 10)


def by_reference(size: float) -> nestor.Problem:
    """The same in a file, which was written before."""
    del size  # of the file
    file, labels = (Path(os.environ["NESTOR_BENCHMARK_DATA"]) / name for name in ("x.npy", "y.npy"))
    x, y = nestor.data.ref(f"file://{file}"), nestor.data.ref(f"file://{labels}")
    model, loss = nn.Linear(FEATURES, 10), _loss
    val = torch.rand(256, FEATURES), torch.arange(256) % 10
    return nestor.Problem(model, L2(model, per="tensor"), loss, loss, train=(x, y), val=val)


CASES: dict[str, Callable[[float], nestor.Problem]] = {
    "CNN": cnn, "BERT-tiny": bert, "data by value": by_value, "data by reference": by_reference,
}  # fmt: skip


def _of(model: nn.Module, x: Tensor, y: Tensor) -> nestor.Problem:
    n = len(x)
    return nestor.Problem(
        model, L2(model, per="tensor"), _loss, _loss, train=(x, y), val=(x[: min(n, 256)], y[: min(n, 256)])
    )


def _loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"])


def measure(name: str, size: float, server: str) -> Row:
    """The row of one case, for a process of its own."""
    one_thread()
    torch.manual_seed(0)
    imported = _after_imports()
    problem = CASES[name](size)
    study = nestor.create_study("benchmarks: submission", server=server, load_if_exists=True)
    sent = _counting(study)
    began = time.perf_counter()
    trial = study.optimize(problem, n_steps=2, wait=False, show_progress_bar=False)
    submitted = time.perf_counter() - began
    peak = status("VmHWM")
    next(iter(trial.stream()))
    first = time.perf_counter() - began
    memory = (peak - imported) / size if size >= LARGE else None
    return {
        "case": name,
        "bytes": size,
        "to_submit": submitted,
        "to_first_step": first,
        "sent": sent[0],
        "memory": memory,
    }


def _after_imports() -> int:
    """Bytes of this process once a small problem was checked and exported, which imports all of the tracer."""
    small = by_value(4 * FEATURES * 64)
    assert small.check().ok
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    return status("VmRSS")


def _counting(study: nestor.Study) -> list[int]:
    """The number of bytes that the study's client sends from here on, in a list."""
    sent = [0]
    client: Any = study._backend  # no public name counts bytes
    transport = client._transport._http

    def count(request: Any) -> None:
        sent[0] += int(request.headers.get("content-length", 0))

    transport.event_hooks["request"].append(count)
    return sent


def apart(name: str, size: float, server: str) -> Row:
    """The row of one case from its own process, or the reason of its failure."""
    options: dict[str, object] = {"case": name, "bytes": size, "server": server}
    return in_own_process("benchmarks.submission", options, {"case": name, "bytes": size})


def write(folder: Path, size: float) -> None:
    """The files that `by_reference` reads; in pieces, so that they are never in memory as a whole."""
    import numpy as np

    rows = int(size / FEATURES / 4)
    x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.float32, shape=(rows, FEATURES))
    for start in range(0, rows, 4096):
        x[start : start + 4096] = np.random.default_rng(start).random(x[start : start + 4096].shape, dtype=np.float32)
    x.flush()
    np.save(folder / "y.npy", np.arange(rows) % 10)


def table(rows: list[Row]) -> str:
    lines = ["| problem | data, MB | to submit, s | to the first step, s | sent, MB | peak memory / data |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['case']} | {row['bytes'] / 1e6:,.0f} | {row['error']} | | | |")
            continue
        cells = (f"{row['to_submit']:.1f}", f"{row['to_first_step']:.1f}", f"{row['sent'] / 1e6:,.1f}")
        memory = "" if row["memory"] is None else f"{row['memory']:.2f}"
        lines.append(f"| {row['case']} | {row['bytes'] / 1e6:,.0f} | {' | '.join(cells)} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = shared_options(__doc__, quick="a data set of 100 MB instead of one gigabyte")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the data set")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)  # one row as JSON, in this process
    parser.add_argument("--bytes", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.bytes, options.server)))
        return
    size = 1e8 if options.quick else options.gigabytes * 1e9
    with tempfile.TemporaryDirectory(prefix="nestor-benchmark-") as folder:
        Path(folder).chmod(0o755)
        write(Path(folder), size)
        os.environ |= {"NESTOR_BENCHMARK_DATA": folder, "NESTOR_DATA_ROOTS": folder}
        with running_service() as server:
            sizes = {name: size if name.startswith("data") else 0.0 for name in CASES}
            rows = collected((apart(name, sizes[name], server) for name in CASES), options.json)
    print(f"{caption('benchmarks.submission')}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
