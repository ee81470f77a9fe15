"""Takes a program in: two blobs that follow the format. What the graphs say is checked again where they run."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import (
    ProgramFormatUnknown,
    ProgramInvalid,
    ProgramNotFinite,
    ProgramNotFound,
    ProgramTooLarge,
    shortened,
    shown,
)
from nestor.schemas.base import Json
from nestor_server.models import Blob, Program
from nestor_server.storage import blobs, tensor_blobs
from nestor_server.storage.safetensors_header import Malformed

MAX_GRAPHS = 16 * 2**20  # bytes
FORMAT = 1
GRAPHS = frozenset({"prepare", "forward", "criterion", "penalty", "evaluate"})
ROOTS = ("params.", "buffers.", "hparams.", "constants.")  # what a tensor's name begins with


def create(session: Session, owner_id: UUID, new: schemas.ProgramCreate) -> schemas.Program:
    """
    Raises:
        BlobNotFound: a digest is not of a complete blob of this owner.
        ProgramInvalid: the blobs do not follow the format.
    """
    graphs, tensors = blobs.want(session, owner_id, new.graphs), blobs.want(session, owner_id, new.tensors)
    torch, hparams = _check_graphs(session, graphs)
    _check_tensors(session, tensors, hparams)
    program = Program(owner_id=owner_id, graphs=new.graphs, tensors=new.tensors, torch=torch)
    session.add(program)
    session.flush()
    session.refresh(program)
    return schemas.Program(
        id=program.id, graphs=program.graphs, tensors=program.tensors, torch=torch, created_at=program.created_at
    )


def get(session: Session, owner_id: UUID, program_id: UUID) -> Program:
    query = select(Program).where(Program.id == program_id, Program.owner_id == owner_id)
    program = session.scalars(query.with_for_update(read=True, key_share=True)).one_or_none()  # or a sweep takes it
    if program is None:
        raise ProgramNotFound(program=str(program_id))
    return program


def _check_graphs(session: Session, blob: Blob) -> tuple[str, dict[str, Any]]:
    if blob.size > MAX_GRAPHS:
        raise ProgramTooLarge(size=blob.size, limit=MAX_GRAPHS)
    try:
        document: Json = json.loads(blobs.load(session, blob))
    except (ValueError, RecursionError):
        raise ProgramInvalid(reason="its graphs are not JSON") from None
    match document:
        case {"format": int(version)} if version != FORMAT:
            raise ProgramFormatUnknown(version=version, known=FORMAT)
        case {"format": int(), "torch": str(torch), "hparams": dict(hparams), "graphs": dict(graphs)}:
            pass
        case _:
            raise ProgramInvalid(reason="its graphs lack one of `format`, `torch`, `hparams` and `graphs`")
    if not re.fullmatch(r"\d{1,4}\.\d{1,4}", torch):
        raise ProgramInvalid(reason=f"its torch version is {shown(torch)}, not one like '2.13'")
    if graphs.keys() != GRAPHS:
        raise ProgramInvalid(reason=f"its graphs must be {', '.join(sorted(GRAPHS))}")
    if not hparams:
        raise ProgramInvalid(reason="it has no hyperparameters")
    return torch, hparams


def _check_tensors(session: Session, blob: Blob, hparams: dict[str, Any]) -> None:
    try:
        header = tensor_blobs.header(session, blob)
    except Malformed as error:
        raise ProgramInvalid(reason=f"its tensors are not safetensors: {error}") from None
    for name, tensor in header.tensors.items():
        if not name.startswith(ROOTS):
            raise ProgramInvalid(reason=f"its tensor {shown(name)} begins with none of {', '.join(ROOTS)}")
        # A buffer or a constant may hold −inf: that is how attention masks are written.
        mask = name.startswith(("buffers.", "constants."))
        if not tensor_blobs.finite(session, blob, tensor, or_infinite=mask):
            raise ProgramNotFinite(tensor=name)
    stored = {name.removeprefix("hparams.") for name in header.tensors if name.startswith("hparams.")}
    if stored != hparams.keys():
        odd = ", ".join(sorted(stored ^ hparams.keys()))[:200]
        raise ProgramInvalid(reason=f"its graphs and its tensors name different hyperparameters: {shortened(odd, 200)}")
