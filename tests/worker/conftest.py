"""A migrated database for this folder, trials in it, and a slot that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from nestor.schemas import Desired, State
from nestor_server.database import Sessions, make_engine, make_sessions, plain_url
from nestor_server.models import Study, Trial, User
from nestor_server.revisions import migrate
from nestor_server.scheduling import task_queue
from nestor_server.settings import Settings
from nestor_worker.supervisor.attempt import Slot
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.supervisor.runners.fork_server import ForkServer
from nestor_worker.supervisor.runners.process import environment

SPEC = {
    "problem": {"preset": {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50}},
    "n_steps": 10,
    "inner_steps": 1,
}


@pytest.fixture(scope="session")
def worker_settings(services) -> Settings:
    name = "worker_tests"
    with psycopg.connect(plain_url(services.database_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = make_url(services.database_url).set(database=name).render_as_string(hide_password=False)
    migrate(url)
    return Settings(database_url=url, redis_url=services.redis_url, max_restarts=2, max_preemptions=3)


@pytest.fixture(scope="session")
def sessions(worker_settings: Settings) -> Iterator[Sessions]:
    engine = make_engine(worker_settings)
    yield make_sessions(engine, worker_settings)
    engine.dispose()


@pytest.fixture
def session(sessions: Sessions) -> Iterator[Session]:
    with sessions() as session:
        yield session


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """As that of a worker. It loads torch once for this folder."""
    server = ForkServer(lambda home: environment(home, threads=1, device="cpu"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def slot(fork_server: ForkServer) -> Slot:
    """One processor with one thread, without a cache."""
    cache = BlobCache(Path("/nowhere"), 0)
    return Slot("w1", ("cpu",), threads=1, checkpoint_seconds=60, cache=cache, fork_server=fork_server)


@pytest.fixture
def sent(monkeypatch) -> list:
    """The messages that would go to the broker."""
    trials: list = []
    monkeypatch.setattr(task_queue, "send", lambda settings, trial_id, queue: trials.append(trial_id))
    return trials


@pytest.fixture
def new_trial(sessions: Sessions, sent: list) -> Callable[..., Trial]:
    """A committed trial of a new user, or of the one named, in any state."""
    del sent

    def make(state: State = State.queued, desired: Desired = Desired.run, *, user: str = "", **fields) -> Trial:
        with sessions.begin() as session:
            name = user or f"user-{uuid4()}"
            study = session.scalars(select(Study).join(User).where(User.name == name)).one_or_none()
            if study is None:
                owner = User(name=name)
                session.add(owner)
                session.flush()
                study = Study(owner_id=owner.id, name="study")
                session.add(study)
                session.flush()
            study.next_number += 1
            trial = Trial(study_id=study.id, number=study.next_number, **{"spec": SPEC, "n_steps": 10, **fields})
            trial.state, trial.desired = state.value, desired.value
            session.add(trial)
        return trial

    return make
