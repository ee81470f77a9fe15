"""Validates and records programs: two blobs each. The runner checks the operators again."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import ProgramNotFinite, ProgramNotFound, ProgramTooLarge
from nestor.program_format import (
    MAX_DOCUMENT_BYTES,
    TRAINED_GROUPS,
    ProgramDocument,
    TensorNames,
    parse_document,
    refused,
    tensor_names,
)
from nestor_server.limits import quotas
from nestor_server.limits.quotas import LEAST_BYTES, Amounts
from nestor_server.models import Blob, Program
from nestor_server.storage import blobs, tensor_blobs
from nestor_server.storage.safetensors_header import Header, Malformed, Tensor


def create(session: Session, owner_id: UUID, new: schemas.ProgramCreate) -> schemas.Program:
    """Record a program whose two blobs were uploaded.

    Raises:
        BlobNotFound: a digest is not of a complete blob of this owner.
        ProgramInvalid: the blobs do not follow the format; the engine refuses them with the same sentence.
        QuotaExceeded
    """
    quotas.take(session, owner_id, Amounts(bytes=LEAST_BYTES))
    graphs = blobs.find_and_retain(session, owner_id, new.graphs)
    tensors = blobs.find_and_retain(session, owner_id, new.tensors)
    header = _header(session, tensors)
    document = _document(session, graphs, tensor_names(header.tensors))
    _check_numbers(session, tensors, header)
    program = Program(
        owner_id=owner_id,
        graphs=new.graphs,
        tensors=new.tensors,
        torch=document.torch,
        metrics=document.metric_names,
    )
    session.add(program)
    session.flush()
    session.refresh(program)
    return schemas.Program(
        id=program.id,
        graphs=program.graphs,
        tensors=program.tensors,
        torch=program.torch,
        created_at=program.created_at,
    )


def get(session: Session, owner_id: UUID, program_id: UUID) -> Program:
    """The program of this owner, locked against deletion until the transaction ends.

    Raises:
        ProgramNotFound: the user has no such program.
    """
    query = select(Program).where(Program.id == program_id, Program.owner_id == owner_id)
    locking = query.with_for_update(read=True, key_share=True)  # or garbage collection could delete it
    program = session.scalars(locking).one_or_none()
    if program is None:
        raise ProgramNotFound(program=str(program_id))
    return program


def _header(session: Session, blob: Blob) -> Header:
    try:
        return tensor_blobs.header(session, blob)
    except Malformed as error:
        raise refused(f"its tensors are not safetensors: {error}") from None


def _document(session: Session, blob: Blob, names: TensorNames) -> ProgramDocument:
    if blob.size > MAX_DOCUMENT_BYTES:  # before it is loaded
        raise ProgramTooLarge(what="its document", size=blob.size, limit=MAX_DOCUMENT_BYTES)
    return parse_document(blobs.load(session, blob), names)


def _check_numbers(session: Session, blob: Blob, header: Header) -> None:
    def is_constant(tensor: Tensor) -> bool:
        """Constants of the graphs may be masks with infinite numbers."""
        return tensor.name.partition(".")[0] not in TRAINED_GROUPS

    if tensor := tensor_blobs.first_not_finite(session, blob, header, or_infinite=is_constant):
        raise ProgramNotFinite(tensor=tensor.name)
