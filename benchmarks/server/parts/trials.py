"""Many small trials of two users on one slot: how fast they are submitted and trained, and how fairly."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from benchmarks.rows import Row
from benchmarks.server import figures
from benchmarks.server.load import Answer
from benchmarks.server.target import Target, User
from nestor.schemas import State
from nestor_server.models import Step, Study, Trial
from testbed.api import spec_of

TRIALS, QUICK_TRIALS = 200, 4
STEPS = 5  # of each trial
SENDERS = 8  # connections that submit at once
LIMIT = 300.0  # seconds until what is not complete is left
FINISHED = [state.value for state in State if state.finished]


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    n = QUICK_TRIALS if quick else TRIALS
    users = target.user(), target.user()
    began = monotonic()
    answers = asyncio.run(_submit(users, n))
    ids = {json.loads(answer.body)["id"] for answer in answers if answer.status == 201}
    submitted: Row = {"case": f"{n} submissions by {SENDERS} connections", "seconds": monotonic() - began}
    yield submitted | figures.quantiles(figures.times(answers)) | figures.counts(answers) | {"distinct": len(ids)}
    yield _train(target, users, n, began)


async def _submit(users: tuple[User, User], n: int) -> list[Answer]:
    """Submit `n` trials, in turn for each user."""
    waiting, answers = iter(range(n)), list[Answer]()

    async def send() -> None:
        lines = [user.client.line() for user in users]
        for i in waiting:
            user = users[i % 2]
            path, content = f"/studies/{user.study}/trials", spec_of(STEPS)
            answers.append(await lines[i % 2].post(path, content))
        for line in lines:
            line.close()

    await asyncio.gather(*(send() for _ in range(SENDERS)))
    return answers


def _train(target: Target, users: tuple[User, User], n: int, began: float) -> Row:
    """Wait until all trials have ended, and look at what was recorded."""
    studies = [UUID(user.study) for user in users]
    of_users = Trial.study_id.in_(studies)

    def ended() -> list[Any]:
        query = select(Trial.study_id, Trial.state, Trial.attempt, Trial.step).join(Study).where(of_users)
        with target.sessions() as session:
            return list(session.execute(query.where(Trial.state.in_(FINISHED)).order_by(Trial.finished_at)))

    while len(ended()) < n and monotonic() - began < LIMIT:
        time.sleep(0.5)
    found, took = ended(), monotonic() - began
    with target.sessions() as session:
        steps = session.scalar(select(func.count()).select_from(Step).join(Trial).where(of_users)) or 0
    ahead, counted = 0, Counter[UUID]()
    for trial in found:
        counted[trial.study_id] += 1
        ahead = max(ahead, abs(counted[studies[0]] - counted[studies[1]]))
    complete = [trial for trial in found if trial.state == State.complete.value]
    return {
        "case": f"{n} trials of {STEPS} steps",
        "seconds": took,
        "complete": len(complete),
        "a minute": 60 * len(complete) / took,
        "one user ahead by": ahead,
        "second attempts": sum(trial.attempt > 1 for trial in found),
        "of other length": sum(trial.step != STEPS for trial in complete),
        "steps": steps,
    }
