"""`AsyncClient` is `Client` for asyncio: the same methods, the same answers, many at a time.

`test_transport`, `test_stream` and `test_uploads` cover both clients.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import pytest

import nestor
from nestor import AsyncClient, Client, errors, schemas
from nestor.remote.asynchronous.__main__ import HERE, package
from nestor.schemas import EventType, LogLevel, State
from tests.client.awaited import run
from tests.client.conftest import N_STEPS, QUICK
from tests.client.problems import ridge

PUBLIC = sorted(name for name in dir(Client) if not name.startswith("_"))
CALCULATE = {"detach", "cause"}  # without a request
# No worker has so many devices, so its trials stay queued.
PRESET = {"problem": {"preset": {}}, "n_steps": 1_000_000, "devices_per_trial": 1000}


def test_the_modules_are_as_they_are_written():
    written = {path.name: path.read_text() for path in HERE.glob("*.py") if not path.name.startswith("__")}
    assert written == package(), "run python -m nestor.remote.asynchronous"


def test_both_clients_have_the_same_methods():
    assert sorted(name for name in dir(AsyncClient) if not name.startswith("_")) == PUBLIC


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(getattr(Client, name))])
def test_a_method_takes_what_that_of_client_takes_and_is_awaited(name: str):
    there, here = getattr(Client, name), getattr(AsyncClient, name)
    expected, found = inspect.signature(there), inspect.signature(here)
    assert found.parameters == expected.parameters
    assert found.return_annotation.removeprefix("Async") == expected.return_annotation
    iterates = str(expected.return_annotation).startswith("Iterator")
    assert str(found.return_annotation).startswith("AsyncIterator") == iterates
    assert inspect.iscoroutinefunction(here) == (not iterates and name not in CALCULATE)


def answers(client: Client, study: UUID, trial: UUID) -> dict[str, tuple]:
    """Reading methods, each with arguments of a finished trial."""
    (program, dataset) = client.trial(trial).spec.problem.model_dump().values()
    del program
    return {
        "find_study": ("finished [b]",),
        "study": (study,),
        "studies": (),
        "trials": (study,),
        "trial": (trial,),
        "find_trial": (study, 0),
        "options": (trial,),
        "attempts": (trial,),
        "events": (trial,),
        "stream": (trial,),
        "logs": (trial,),
        "steps": (trial, 3),
        "hyperparameters": (trial,),
        "snapshot": (trial, 3),
        "checkpoint": (trial,),
        "dataset": (dataset,),
        "presets": (),
        "me": (),
        "version": (),
        "detach": (client.trial(trial),),
        "cause": (trial,),
    }


async def collected(result: object) -> object:
    if isinstance(result, AsyncIterator):
        return [item async for item in result]
    return await result if inspect.isawaitable(result) else result


def test_every_reading_method_answers_as_that_of_client(client: Client, finished_on_server, server, token):
    study, trial = finished_on_server.study.id, finished_on_server.trial.id
    calls = answers(client, study, trial)

    async def ask_all() -> dict[str, object]:
        async with AsyncClient(server.url, token) as asynchronous:
            found = await asyncio.gather(*(collected(getattr(asynchronous, name)(*calls[name])) for name in calls))
            return dict(zip(calls, found, strict=True))

    for name, found in run(ask_all()).items():
        expected = getattr(client, name)(*calls[name])
        assert found == (list(expected) if isinstance(expected, Iterator) else expected), name


def test_a_study_is_created_filled_steered_and_deleted(server, token):
    async def use() -> None:
        async with AsyncClient(server.url, token) as client:
            study = await client.create_study(schemas.StudyCreate(name=f"study {uuid4()}"))
            changed = await client.change_study(study.id, schemas.StudyPatch(user_attrs={"a": 1}))
            assert changed.user_attrs == {"a": 1}
            spec = schemas.build(schemas.TrialCreate, PRESET)
            trials = await asyncio.gather(*(client.create_trial(study.id, spec) for _ in range(20)))
            assert sorted(trial.number for trial in trials) == list(range(20))
            first = trials[0].id
            assert (await client.prioritize(first, -1)).priority == -1
            assert (await client.request(first, "pause")).state is State.paused
            with pytest.raises(errors.IllegalTransition):
                await client.request(first, "retry")
            with pytest.raises(errors.TrialNumberNotFound, match=r"The study's trials are 0 to 19\."):
                await client.find_trial(study.id, 20)
            await client.delete_study(study.id)
            with pytest.raises(errors.StudyNotFound):
                await client.study(study.id)

    run(use())


def test_a_problem_is_submitted_and_its_steps_are_read_as_they_are_taken(server, token, worker):
    problem = ridge()
    config = nestor.Config(n_steps=4, **{name: QUICK[name] for name in ("inner", "inner_steps", "outer")})

    async def watch(client: AsyncClient, trial: UUID) -> list[int]:
        return [step.number async for step in client.stream(trial)]

    async def use() -> None:
        async with AsyncClient(server.url, token) as client:
            study = await client.create_study(schemas.StudyCreate(name=f"study {uuid4()}"))
            spec = nestor.study.submission(config)
            one = await client.submit(study.id, problem, config, spec, show_progress_bar=False)
            other = await client.create_trial(study.id, spec.model_copy(update={"problem": one.spec.problem}))
            assert await asyncio.gather(watch(client, one.id), watch(client, other.id)) == [[1, 2, 3, 4]] * 2
            assert (await client.trial(one.id)).state is State.complete

    run(use())


def test_a_hundred_requests_wait_at_the_same_time(server, token):
    async def use() -> None:
        async with AsyncClient(server.url, token) as client:
            users = await asyncio.gather(*(client.me() for _ in range(100)))
            assert {me.user for me in users} == {users[0].user}

    run(use())


def test_a_stream_is_left_at_once(server, token, finished_on_server):
    async def use() -> None:
        async with AsyncClient(server.url, token) as client:
            study = await client.create_study(schemas.StudyCreate(name=f"study {uuid4()}"))
            waiting = await client.create_trial(study.id, schemas.build(schemas.TrialCreate, PRESET))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_nothing(client, waiting.id), 0.3)
            async for event in client.events(finished_on_server.trial.id):
                if event.type is EventType.step:
                    break
            warnings = [line async for line in client.logs(waiting.id, level=LogLevel.warning)]
            assert warnings == []

    run(use())


async def _nothing(client: AsyncClient, trial: UUID) -> None:
    async for step in client.stream(trial, after=N_STEPS * 1_000_000):
        raise AssertionError(step)


def test_a_closed_client_says_so(server, token):
    async def use() -> None:
        client = AsyncClient(server.url, token)
        await client.close()
        with pytest.raises(errors.ConnectionsClosed, match="Create another client"):
            await client.me()
        with pytest.raises(errors.ConnectionsClosed):
            await anext(client.events(uuid4()))

    run(use())
