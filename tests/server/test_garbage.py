"""What garbage collection deletes, and what it keeps."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from nestor.errors import BlobNotFound
from nestor.schemas import State
from nestor_server.models import Blob, Dataset, Program, Study, Trial, User
from nestor_server.storage import blobs, garbage_collection

AGO = func.now() - timedelta(days=31)
ROOM = 10**9


@pytest.fixture
def owner(server) -> UUID:
    with server.sessions.begin() as session:
        user = User(name=os.urandom(4).hex())
        session.add(user)
    return user.id


@pytest.fixture
def left(server, owner):
    """The digests that are still there."""

    def left() -> set[str]:
        with server.sessions() as session:
            return set(session.scalars(select(Blob.digest).where(Blob.owner_id == owner)))

    return left


def upload(session, owner: UUID, data: bytes) -> Blob:
    blob = blobs.announce(session, owner, blobs.digest_of(data), len(data), limit=ROOM)
    return blobs.append(session, owner, blob.id, 0, data)


def grow_old(session, owner: UUID) -> None:
    session.execute(update(Blob).where(Blob.owner_id == owner).values(created_at=AGO, wanted_at=AGO))


def sweep(server) -> None:
    with server.sessions.begin() as session:
        garbage_collection.purge_expired(session)


def test_unused_uploads_are_deleted_after_a_while_complete_or_not(server, owner, left):
    with server.sessions.begin() as session:
        upload(session, owner, b"whole")
        half = blobs.announce(session, owner, blobs.digest_of(b"half"), 4, limit=ROOM)
        blobs.append(session, owner, half.id, 0, b"ha")
    sweep(server)
    assert len(left()) == 2
    with server.sessions.begin() as session:
        grow_old(session, owner)
    sweep(server)
    assert left() == set()


def test_an_active_upload_is_kept_even_if_it_started_long_ago(server, owner, left):
    with server.sessions.begin() as session:
        half = blobs.announce(session, owner, blobs.digest_of(b"half"), 4, limit=ROOM)
    with server.sessions.begin() as session:
        grow_old(session, owner)
    with server.sessions.begin() as session:
        blobs.append(session, owner, half.id, 0, b"ha")
    sweep(server)
    assert len(left()) == 1


def test_a_blob_that_a_client_has_just_found_survives_its_checkpoint(server, owner, left):
    with server.sessions.begin() as session:
        blob = blobs.store(session, owner, b"of a checkpoint")
        assert blobs.announce(session, owner, blob.digest, blob.size, limit=ROOM).complete
    with server.sessions.begin() as session:
        garbage_collection.delete_unreferenced(session, [blob.id])
    assert left() == {blob.digest}


def test_a_blob_that_no_client_has_requested_is_deleted_with_its_last_reference(server, owner, left):
    with server.sessions.begin() as session:
        blob = blobs.store(session, owner, b"of a checkpoint")
    with server.sessions.begin() as session:
        garbage_collection.delete_unreferenced(session, [blob.id])
    assert left() == set()


def test_a_sweep_keeps_a_blob_that_gets_a_reference_meanwhile(server, owner, left):
    with server.sessions.begin() as session:
        blob = upload(session, owner, b"old")
    with server.sessions.begin() as session:
        grow_old(session, owner)
    sweeping = threading.Thread(target=sweep, args=(server,))
    with server.sessions.begin() as session:
        blobs.find_and_retain(session, owner, blob.digest)
        sweeping.start()
        sweeping.join(0.5)
        assert sweeping.is_alive()  # it waits for us
        session.add(Program(owner_id=owner, graphs=blob.digest, tensors=blob.digest, torch="2.13"))
    sweeping.join(10)
    assert left() == {blob.digest}


def test_a_deleted_blob_cannot_be_referenced(server, owner):
    with server.sessions.begin() as session, pytest.raises(BlobNotFound):
        blobs.find_and_retain(session, owner, blobs.digest_of(b"never here"))


@pytest.mark.parametrize("state", [State.complete, State.running])
def test_a_deleted_study_is_purged_with_its_problem_and_blobs_once_nothing_runs(server, owner, left, state):
    with server.sessions.begin() as session:
        blob = upload(session, owner, b"a data set and a program")
        program = Program(owner_id=owner, graphs=blob.digest, tensors=blob.digest, torch="2.13", created_at=AGO)
        dataset = Dataset(owner_id=owner, splits={"train": blob.digest}, sizes={"train": 1}, created_at=AGO)
        study = Study(owner_id=owner, name="study", deleted_at=AGO)
        session.add_all([program, dataset, study])
        session.flush()
        trial = Trial(
            study_id=study.id, number=0, spec={}, n_steps=1, state=state.value, program_id=program.id,
            dataset_id=dataset.id,
        )  # fmt: skip
        session.add(trial)
        grow_old(session, owner)
    sweep(server)
    with server.sessions() as session:
        found = [session.get(table, row.id) for table, row in ((Study, study), (Program, program), (Dataset, dataset))]
    kept = state is State.running
    assert [row is not None for row in found] == [kept] * 3
    assert left() == ({blob.digest} if kept else set())


def test_programs_and_data_sets_of_trials_are_kept_at_any_age(server, owner, left):
    with server.sessions.begin() as session:
        blob = upload(session, owner, b"in use")
        program = Program(owner_id=owner, graphs=blob.digest, tensors=blob.digest, torch="2.13", created_at=AGO)
        study = Study(owner_id=owner, name="study")
        session.add_all([program, study])
        session.flush()
        session.add(Trial(study_id=study.id, number=0, spec={}, n_steps=1, state="complete", program_id=program.id))
        grow_old(session, owner)
    sweep(server)
    assert left() == {blob.digest}
