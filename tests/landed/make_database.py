"""Wrote the database of this folder, in the version of commit 975f0e6: never write it anew. See `make_engine`.

A real server and a real worker leave trials in every state; what they went on to is recorded by resuming them there.
"""

from __future__ import annotations

import gzip
import json
import subprocess
from typing import Any
from uuid import UUID

import torch
from sqlalchemy import select

import nestor
from nestor import Client
from nestor.schemas import Scope
from nestor_server.database import migrate, plain_url
from nestor_server.embedded.databases.binaries import find_postgres
from nestor_server.models import Checkpoint
from testbed.server import Server, new_database, serving, wait_for
from testbed.services import running_services
from testbed.worker import running_worker
from tests.landed import DATABASE, LEFT, recorded, weights_of
from tests.landed.problems import PROBLEMS

DIGITS = {"model": {"kind": "mlp", "hidden": [6]}, "train_size": 60, "val_size": 40}
NOISY = DIGITS | {"hyperparameters": ["example_weights", {"kind": "l2", "per": "tensor"}], "label_noise": 0.3}
KFAC = {"implicit": {"curvature": "kfac", "solver": "direct"}}
HESSIAN = {"implicit": {"curvature": {"hessian": {"damping": 0.1}}, "solver": {"conjugate_gradient": {"steps": 4}}}}
SLOWLY = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "steps": 300, "batch_size": 20}  # to be caught on its way
QUICK: dict[str, Any] = {"outer": nestor.RMSprop(0.05, batch_size=6), "show_progress_bar": False, "evaluate_every": 3}
ENDED = ("complete", "failed", "cancelled")


class Landed:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.token = server.new_token("ada")
        self.http = server.http(self.token)
        self.trials: dict[str, str] = {}

    def study(self, name: str, **fields: Any) -> str:
        return self.http.post("/studies", json={"name": name, **fields}).raise_for_status().json()["id"]

    def submit(self, label: str, study: str, preset: dict[str, Any], n_steps: int, **fields: Any) -> str:
        spec = {
            "problem": {"preset": preset},
            "inner": {"optimizer": "adam", "lr": 0.01, "steps": 3, "batch_size": 20},
            "outer": {"optimizer": "rmsprop", "lr": 0.05, "steps": n_steps},
            "evaluate_every": 3,
            **fields,
        }
        answer = self.http.post(f"/studies/{study}/trials", json=spec, headers={"Idempotency-Key": label})
        assert answer.is_success, answer.text
        self.trials[label] = answer.json()["id"]
        return self.trials[label]

    def trial(self, label: str) -> dict[str, Any]:
        return self.http.get(f"/trials/{self.trials[label]}").raise_for_status().json()

    def ask(self, label: str, what: str, body: Any = None) -> None:
        self.http.post(f"/trials/{self.trials[label]}/{what}", json=body).raise_for_status()

    def until(self, label: str, *states: str) -> None:
        wait_for(lambda: self.trial(label)["state"] in states, f"{label} to be {states}", seconds=120)

    def until_step(self, label: str, least: int) -> None:
        wait_for(lambda: self.trial(label)["step"] >= least, f"steps of {label}", seconds=120)

    def checkpoint(self, label: str) -> int | None:
        chosen = select(Checkpoint.step).where(Checkpoint.trial_id == UUID(self.trials[label]))
        with self.server.sessions() as session:
            return max(session.scalars(chosen), default=None)


def leave(landed: Landed) -> None:
    """Trials in every state, of which one's worker dies."""
    server = landed.server
    digits = landed.study("digits", tags=["landed", "small"], user_attrs={"note": ["kept", 1.5]})
    gone = landed.study("deleted")
    with running_worker(server, NESTOR_CHECKPOINT_SECONDS=0.1) as worker:
        submit = landed.submit
        submit("complete", digits, NOISY, 6, user_attrs={"k": [1]}, warmup_steps=2)
        landed.until("complete", *ENDED)
        submit("extended", digits, DIGITS, 3, response=KFAC, priority=-5)
        landed.until("extended", *ENDED)
        landed.ask("extended", "extend", {"steps": 2})
        submit("failed", digits, DIGITS, 50, inner={"optimizer": "sgd", "lr": 1e30})
        submit("warm", digits, NOISY, 2, warm_start={"trial": landed.trials["complete"], "step": 6})
        submit("folds", digits, DIGITS, 5, folds={"count": 2}, stop_early={"patience": 10, "share": 0.3})
        submit("hypernetwork", digits, NOISY, 3, response={"hypernetwork": {"rank": 3, "steps": 2}}, seed=5)
        submit("deleted", gone, DIGITS, 2, response={"unrolled": {"steps": 2}})
        by_program(landed)
        for label in landed.trials:
            landed.until(label, *ENDED)
        landed.http.delete(f"/studies/{gone}").raise_for_status()
        del landed.trials["deleted"]
        submit("paused", digits, NOISY, 9, inner=SLOWLY)
        landed.until_step("paused", 2)
        landed.ask("paused", "pause")
        landed.until("paused", "paused", *ENDED)
        submit("cancelled", digits, DIGITS, 10_000, inner=SLOWLY)
        landed.until_step("cancelled", 2)
        landed.ask("cancelled", "cancel")
        landed.until("cancelled", "cancelled")
        slow_program(landed)
        submit("running", digits, NOISY, 9, inner=SLOWLY, response=HESSIAN)
        wait_for(lambda: landed.checkpoint("running"), "a checkpoint", seconds=60)
        worker.kill()
    landed.submit("queued", digits, DIGITS, 2, priority=-1)
    landed.submit("queued warm", digits, NOISY, 2, warm_start={"trial": landed.trials["complete"], "weights": False})


def by_program(landed: Landed) -> None:
    with Client(landed.server.url, landed.token) as client:
        study = nestor.create_study("by program", server=client)
        inner = nestor.Adam(0.02, steps=3, batch_size=7)
        for label, name, options in (
            ("program", "adam in float32", {}),
            ("program of batch norm", "batch norm", {"seed": 2}),
            ("program of an augmentation", "unrolled", {"response": nestor.Unrolled(2)}),
        ):
            trial = study.optimize(PROBLEMS[name](), 4, inner=inner, **QUICK, **options)
            landed.trials[label] = str(trial.id)
        warm = study.optimize(
            PROBLEMS["adam in float32"](),
            2,
            inner=inner,
            **QUICK,
            warm_start=study.trials[0],
            user_attrs={"warm": True},
        )
        landed.trials["program warm"] = str(warm.id)


def slow_program(landed: Landed) -> None:
    with Client(landed.server.url, landed.token) as client:
        study = nestor.load_study("by program", server=client)
        inner = nestor.AdamW(0.001, steps=300, batch_size=7, schedule=nestor.CosineDecay(2700, warmup=10))
        trial = study.optimize(PROBLEMS["adam"](), 9, inner=inner, **QUICK, wait=False)
        landed.trials["program paused"] = str(trial.id)
        landed.until_step("program paused", 2)
        trial.pause()
        landed.until("program paused", "paused", *ENDED)


def go_on(landed: Landed) -> None:
    """What a later version must do, too."""
    with running_worker(landed.server):
        for label in ("paused", "program paused"):
            landed.ask(label, "resume")
        landed.ask("complete", "extend", {"steps": 3})
        for label in landed.trials:
            landed.until(label, *ENDED)


def dump(url: str) -> bytes:
    """As statements that any client can send."""
    programs, _ = find_postgres(None)
    options = ["--inserts", "--rows-per-insert=50", "--no-owner", "--no-privileges", "--no-comments"]
    command = [programs / "pg_dump", *options, f"--dbname={plain_url(url)}"]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    return b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"\\"))  # psql's own


if __name__ == "__main__":
    torch.set_num_threads(1)
    with running_services() as services, new_database(services) as url:
        migrate(url)
        with serving({"database_url": url, "redis_url": services.redis_url}) as server:
            landed = Landed(server)
            bobs = server.new_token("bob", Scope.admin)
            with server.http(bobs) as http:
                http.post("/studies", json={"name": "digits"}).raise_for_status()
            leave(landed)
            server.stop()
            DATABASE.write_bytes(gzip.compress(dump(url), mtime=0))
            server.start()
            with Client(server.url, landed.token) as client:
                all_told = lambda: {label: recorded(client, trial_id) for label, trial_id in landed.trials.items()}
                before, weights = all_told(), weights_of(client, landed.trials["program"])
                go_on(landed)
                after = all_told()
        left = {"token": landed.token, "trials": landed.trials, "weights": weights, "before": before, "after": after}
        rows = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in left.items()]
        LEFT.write_text("{\n" + ",\n".join(rows) + "\n}\n")
