"""Single entries of a hyperparameter: those that stand out at a step, and the course of some."""

from __future__ import annotations

import math
from uuid import UUID

from sqlalchemy import Uuid, any_, cast, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from nestor.errors import EntriesNotRecorded, HyperparameterUnknown
from nestor.results.entries import course, course_steps, flat_indices, top_entries
from nestor.schemas import EntryValues, Form, HyperparameterInfo, Order, TopEntries
from nestor.schemas.entries import COMPARED, ExtremeEntries
from nestor_server.models import Blob, Snapshot, Trial
from nestor_server.services import versions
from nestor_server.services.records import hyperparameters
from nestor_server.services.trials import queries as trial_queries
from nestor_server.services.versions import OF_TRIAL, Versioned
from nestor_server.storage import tensor_blobs

SMALL = 65_536  # entries; a tensor of so many is compared as it is read, if its snapshot says too little of its entries
OF_EARLIER_VERSION = "an earlier version of Nestor recorded the snapshot"


def top(
    session: Session, owner_id: UUID, trial_id: UUID, name: str, *, by: Order, k: int, step: int | None
) -> Versioned:
    """The entries of a hyperparameter that come first by an order at a step, by default that of the latest snapshot.

    Its functions raise:
        TrialNotFound
        HyperparameterUnknown: the trial has no hyperparameter of that name.
        HyperparametersNotFound: that step has no snapshot.
        EntriesNotRecorded: the snapshot does not say which entries these are.
    """

    def read() -> tuple[TopEntries, str]:
        info, version = _info(session, owner_id, trial_id, name)
        found, first = (hyperparameters.at(session, trial_id, number) for number in (step, 0))
        ends = [found.blob, first.blob]
        headers = tensor_blobs.headers(session, ends)
        tensors = [
            (blob, hyperparameters.tensor_of(header, trial_id, name))
            for blob, header in zip(ends, headers, strict=True)
        ]
        recorded, most = _recorded(session, trial_id, found.step, name)
        gradients = {} if recorded is None else recorded.gradients
        n = math.prod(info.shape)
        compares = n <= COMPARED or (n <= SMALL and (recorded is None or k > most))
        if by is Order.gradient and not gradients:
            before = "before the first step there is no hypergradient"
            reason = OF_EARLIER_VERSION if found.step else before
            raise EntriesNotRecorded(name=name, by=by.value, step=found.step, reason=reason)
        if by is not Order.gradient and compares:
            index, most = range(n), n
            values, starts = (tensor_blobs.numbers(session, blob, tensor) for blob, tensor in tensors)
        elif recorded is None:
            raise EntriesNotRecorded(name=name, by=by.value, step=found.step, reason=OF_EARLIER_VERSION)
        else:
            index = recorded.index
            values, starts = tensor_blobs.entries(session, tensors, index)
        chosen = top_entries(
            info,
            step=found.step,
            by=by,
            k=min(k, most),
            index=index,
            values=values,
            starts=starts,
            gradients=[gradients.get(i) for i in index],
        )
        return chosen, version

    return Versioned(lambda: trial_queries.version(session, owner_id, trial_id), read)


def values(
    session: Session,
    owner_id: UUID,
    trial_id: UUID,
    name: str,
    *,
    index: str,
    after: int | None,
    max_points: int | None,
    form: Form,
) -> Versioned:
    """The values of some entries at the steps that have a snapshot. Of many steps, evenly chosen ones.

    Args:
        index: flat indices or positions, such as "0,17,3.5".
        after: only steps above this one.
        max_points: the most steps; entries times steps are at most `MAX_NUMBERS` in any case.

    Its functions raise:
        TrialNotFound, HyperparameterUnknown
        EntryUnknown: an index is not one of this hyperparameter.
        TooManyEntries: more than `MAX_INDICES`.
    """

    def read() -> tuple[EntryValues, str]:
        info, version = _info(session, owner_id, trial_id, name)
        chosen = flat_indices(info, index)
        first = 0 if after is None else after + 1
        query = select(Snapshot.step, Snapshot.blob_id).where(Snapshot.trial_id == trial_id, Snapshot.step >= first)
        known = {row.step: row.blob_id for row in session.execute(query.order_by(Snapshot.step))}
        steps = course_steps([*known], len(chosen), max_points)
        # By their ids, so that PostgreSQL looks each up: a join with the snapshots may read all blobs.
        wanted = cast([known[step] for step in steps], ARRAY(Uuid))
        by_id = {blob.id: blob for blob in session.scalars(select(Blob).where(Blob.id == any_(wanted)))}
        steps = [step for step in steps if known[step] in by_id]  # others were withdrawn meanwhile
        found = [by_id[known[step]] for step in steps]
        headers = tensor_blobs.headers(session, found)
        tensors = [
            (blob, hyperparameters.tensor_of(header, trial_id, name))
            for blob, header in zip(found, headers, strict=True)
        ]
        by_step = tensor_blobs.entries(session, tensors, chosen)
        found_course = course(info, form=form, steps=steps, index=chosen, by_step=by_step)
        return found_course, version

    return Versioned(lambda: trial_queries.version(session, owner_id, trial_id), read)


def _info(session: Session, owner_id: UUID, trial_id: UUID, name: str) -> tuple[HyperparameterInfo, str]:
    """The hyperparameter, and the version of its trial."""
    trial = trial_queries.read(session, owner_id, trial_id, Trial.hyperparameters, *OF_TRIAL)
    infos = hyperparameters.infos(trial.hyperparameters)
    for info in infos:
        if info.name == name:
            return info, versions.of_trial(trial)
    raise HyperparameterUnknown(trial=str(trial_id), name=name, hparams=[info.name for info in infos])


def _recorded(session: Session, trial_id: UUID, step: int, name: str) -> tuple[ExtremeEntries | None, int]:
    """The entries of one tensor that a worker recorded with a snapshot, and how many of each order."""
    of_one = Snapshot.entries["tensors"][name].label("of_one")
    query = select(of_one, Snapshot.entries["k"].as_integer().label("k"))
    row = session.execute(query.where(Snapshot.trial_id == trial_id, Snapshot.step == step)).one_or_none()
    if row is None or row.of_one is None:
        return None, 0
    return ExtremeEntries.model_validate(row.of_one), row.k
