"""What a worker lists of installed packages, and which trials it therefore gets."""

from __future__ import annotations

import site
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, func, select, update

from nestor import EntryPoint
from nestor.errors import EntryPointNotFound, EntryPointNotOffered, EntryPointParamMissing, EntryPointParamUnknown
from nestor.schemas import EntryPointInfo, EntryPointProblem, ParameterInfo, State
from nestor_engine import Config, optimize
from nestor_server.database import Sessions
from nestor_server.models import Event, Step, Trial, Worker
from nestor_server.scheduling import entry_points as routing
from nestor_server.scheduling import fair_share, leases, task_queue
from nestor_server.services.problems import presets
from nestor_server.settings import Settings
from nestor_worker.supervisor import entry_points
from nestor_worker.supervisor.attempt import Slot, supervise
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.supervisor.runners import process as runner_process
from tests.support.packages import install
from tests.worker.trials import claim

POINT = "moons:settling"
SPEC = {"n_steps": 10, "problem": {"entry_point": POINT, "params": {"width": 3}}}
Offers = dict[str, EntryPointInfo]


@pytest.fixture(autouse=True)
def alone(sessions: Sessions) -> Iterator[None]:
    """Without trials and workers of other tests."""
    with sessions.begin() as session:
        session.execute(update(Trial).values(state=State.cancelled.value))
        session.execute(delete(Worker))
    yield
    with sessions.begin() as session:
        session.execute(delete(Worker))


def offer(*required: str, optional: tuple[str, ...] = (), name: str = POINT, **fields: object) -> Offers:
    parameters = [ParameterInfo(name=one, required=True) for one in required]
    parameters += [ParameterInfo(name=one, required=False, default=1) for one in optional]
    given = {"entry_point": name, "package": "moons 1.0", "parameters": parameters, **fields}
    return {name: EntryPointInfo.model_validate(given)}


def register(sessions: Sessions, offers: Offers, worker: str = "w1", **fields: object) -> None:
    listed = {name: info.model_dump(mode="json") for name, info in offers.items()}
    with sessions.begin() as session:
        session.add(Worker(id=worker, device="cpu", versions={}, entry_points=listed, **fields))


# --- listing --------------------------------------------------------------------------------------


def test_a_worker_lists_signatures_and_what_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One package ends the process that imports it, and what is behind it in the alphabet is listed all the same."""
    source = '''
print("libraries print this")
def settling(width: int, *, rate=0.5, of=object, seed: int = 3, **others: str):
    """Settles.

    And more.
    """
'''
    install(tmp_path, "moons", source, {"settling": POINT}, version="0.2")
    install(tmp_path, "broken", "import a_package_that_is_missing", {"it": "broken:it"})
    install(tmp_path, "ending", "import os; os._exit(1)", {"it": "ending:it"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    listed = entry_points.installed()

    assert {name for name, info in listed.items() if info.error is None} == {POINT}
    assert "No module named 'a_package_that_is_missing'" in (listed["broken:it"].error or "")
    assert "ended the process" in (listed["ending:it"].error or "")
    info = listed[POINT]
    assert (info.package, info.description, info.takes_others) == ("moons 0.2", "Settles.", True)
    assert [one.model_dump() for one in info.parameters] == [
        {"name": "width", "annotation": "int", "required": True, "default": None},
        {"name": "rate", "annotation": None, "required": False, "default": 0.5},
        {"name": "of", "annotation": None, "required": False, "default": "<class 'object'>"},
        {"name": "seed", "annotation": "int", "required": False, "default": None},
    ]


def test_a_package_whose_import_takes_too_long_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, "slow", "", {"it": "slow:it"}, version="3.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    (info,) = entry_points.installed(seconds=0.01).values()
    assert (info.package, info.error) == ("slow 3.0", entry_points.UNFINISHED)


def test_a_worker_without_such_packages_lists_nothing():
    assert entry_points.installed() == {}


def test_a_runner_finds_the_packages_that_its_user_installed(monkeypatch: pytest.MonkeyPatch):
    """`pip install --user` puts them below HOME, which is another one for a runner."""
    read = lambda: runner_process.environment(Path("/work"), threads=1, device="cpu")
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    assert read()["PYTHONUSERBASE"] == site.getuserbase()
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)
    assert "PYTHONUSERBASE" not in read()


SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F
import nestor
from nestor.hparams import L2

def settling(width):
    """Weights and data are drawn without a generator of their own."""
    model, x = nn.Linear(width, 1), torch.randn(40, width)
    loss = lambda outputs, batch: F.mse_loss(outputs, batch["y"])
    return nestor.Problem(model, L2(model), loss, loss, train=(x, x[:, :1]), val=(x, x[:, 1:2]))
'''


def test_the_processes_of_several_devices_build_the_same_problem(
    sessions: Sessions,
    worker_settings: Settings,
    new_trial: Callable[..., Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    install(tmp_path, "moons", SOURCE, {"settling": POINT}, version="0.2")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    made = EntryPoint(POINT, width=3).build(seed=5)
    config = Config(n_steps=3, seed=5)
    expected = [step.val_loss for step in optimize(made.bilevel(), made.data, config)]

    trial = new_trial(spec=SPEC | {"seed": 5}, n_steps=3, devices=2)
    cache = BlobCache(Path("/nowhere"), 0)
    slot = Slot("w1", ("cpu", "cpu"), threads=1, checkpoint_seconds=60, cache=cache, memory_bytes=2**33)
    lease = claim(sessions, trial.id)
    assert supervise(sessions, worker_settings, lease, slot, slot.spawn(), threading.Event()) is State.complete
    with sessions() as session:
        steps = session.scalars(select(Step.data).where(Step.trial_id == trial.id).order_by(Step.number)).all()
    assert [step["val_loss"] for step in steps] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        ("model.extra = nn.Linear(2, 2)", State.complete, "extra.weight"),
        ("loss = lambda outputs, batch: F.mse_loss(outputs.detach(), batch['y'])", State.failed, "train_loss"),
    ],
)
def test_a_problem_that_a_package_made_is_checked_on_the_worker(
    line: str,
    state: State,
    said: str,
    sessions: Sessions,
    worker_settings: Settings,
    new_trial: Callable[..., Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Its users cannot check it: they have no package."""
    source = SOURCE.replace("    return", f"    {line}\n    return")
    install(tmp_path, "moons", source, {"settling": POINT}, version="0.2")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    trial = new_trial(spec=SPEC | {"n_steps": 2}, n_steps=2)
    slot = Slot("w1", ("cpu",), threads=1, checkpoint_seconds=60, cache=BlobCache(Path("/nowhere"), 0))
    lease = claim(sessions, trial.id)
    assert supervise(sessions, worker_settings, lease, slot, slot.spawn(), threading.Event()) is state
    with sessions() as session:
        error = session.get_one(Trial, trial.id).error
        events = session.scalars(select(Event.data).where(Event.trial_id == trial.id, Event.type == "log")).all()
    assert said in str([*events, error])


# --- routing --------------------------------------------------------------------------------------

SUITABLE = [offer("width"), offer(optional=("width",)), offer(takes_others=True), offer("width") | offer(name="b:c")]
UNSUITABLE = [{}, offer("width", name="other:one"), offer(), offer("depth"), offer("width", "depth")]
UNSUITABLE += [offer("width", error="it cannot be imported"), offer("depth", takes_others=True)]


@pytest.mark.parametrize("offers", [*SUITABLE, *UNSUITABLE], ids=range(len(SUITABLE + UNSUITABLE)))
def test_a_trial_goes_to_a_worker_that_has_the_entry_point_and_takes_its_params(
    sessions: Sessions, new_trial: Callable[..., Trial], offers: Offers
):
    trial = new_trial(spec=SPEC)
    with sessions.begin() as session:
        lease = leases.claim_next(session, trial.id, "w1", offers=offers)
    assert (lease is not None) == (offers in SUITABLE)


@pytest.mark.parametrize("offers", [*SUITABLE, *UNSUITABLE], ids=range(len(SUITABLE + UNSUITABLE)))
def test_a_submission_is_refused_exactly_if_no_running_worker_could_claim_it(sessions: Sessions, offers: Offers):
    register(sessions, {}, "another")
    register(sessions, offers)
    problem = EntryPointProblem.model_validate(SPEC["problem"])
    with sessions() as session:
        if offers in SUITABLE:
            return presets.validate(session, problem)
        expected = EntryPointNotFound, EntryPointNotOffered, EntryPointParamMissing, EntryPointParamUnknown
        with pytest.raises(expected, match="moons:settling"):
            presets.validate(session, problem)


def test_without_a_running_worker_a_submission_waits_for_one(sessions: Sessions):
    ago = func.now() - timedelta(hours=1)
    register(sessions, offer(name="other:one"), heartbeat_at=ago)
    with sessions() as session:
        presets.validate(session, EntryPointProblem(entry_point=POINT))
        assert presets.describe(session).entry_points == ()


def test_of_workers_that_differ_one_that_can_run_trials_describes_the_entry_point(sessions: Sessions):
    register(sessions, offer(error="broken"), "a")
    register(sessions, offer("width", package="moons 2.0"), "b")
    register(sessions, offer("width", error="broken, too"), "c")
    with sessions() as session:
        (info,) = presets.describe(session).entry_points
        presets.validate(session, EntryPointProblem(entry_point=POINT, params={"width": 3}))
    assert (info.package, info.error) == ("moons 2.0", None)


def test_every_worker_runs_presets_and_one_with_packages_takes_the_oldest_trial(
    sessions: Sessions, new_trial: Callable[..., Trial]
):
    theirs, other, preset = new_trial(spec=SPEC, user="a"), new_trial(user="a"), new_trial(user="a")
    claimed: list[UUID | None] = []
    for offers in ({}, offer("width"), {}, {}):
        with sessions.begin() as session:
            lease = leases.claim_next(session, uuid4(), "w", offers=offers)
        claimed.append(lease and lease.trial_id)
    assert claimed == [other.id, theirs.id, preset.id, None]


def test_messages_about_an_entry_point_are_sent_to_workers_that_have_it(
    sessions: Sessions, new_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
):
    sent: list[tuple[UUID, str]] = []
    trial, preset = new_trial(spec=SPEC), new_trial()
    monkeypatch.setattr(task_queue, "send", lambda settings, trial_id, queue: sent.append((trial_id, queue)))
    with sessions.begin() as session:
        task_queue.send_on_commit(session, trial.id)
        task_queue.send_on_commit(session, preset.id)
        assert routing.name_of(session, trial.id) == POINT
    assert sent == [(trial.id, "nestor:moons:settling"), (preset.id, "nestor")]


def test_a_message_is_sent_again_only_while_a_worker_has_the_entry_point(
    sessions: Sessions, new_trial: Callable[..., Trial]
):
    trial = new_trial(spec=SPEC, sent_at=func.now() - timedelta(hours=1))
    register(sessions, offer(name="other:one"))
    with sessions.begin() as session:
        assert leases.sweep_expired(session) == []
    register(sessions, offer("width"), "w2")
    with sessions.begin() as session:
        assert leases.sweep_expired(session) == [trial.id]


def test_a_trial_yields_only_to_one_that_its_worker_can_run(sessions: Sessions, new_trial: Callable[..., Trial]):
    register(sessions, {}, "plain")
    register(sessions, offer("width"), "with moons")
    ago = func.now() - timedelta(hours=1)
    running = {
        worker: new_trial(State.running, user="a", lease_owner=worker, claimed_at=ago).id
        for worker in ("plain", "with moons", "unknown")
    }
    new_trial(spec=SPEC, user="b")
    with sessions.begin() as session:
        fair_share.preempt(session, slice_seconds=60)
        preempted = select(Trial.id).where(Trial.desired == "preempt", Trial.id.in_(running.values()))
        assert session.scalars(preempted).all() == [running["with moons"]]
