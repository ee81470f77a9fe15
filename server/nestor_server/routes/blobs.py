"""/blobs: uploads that resume by offset, downloads by digest"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import ChunkTooLarge, DigestMismatch
from nestor.schemas import API, CHUNK_BYTES, Digest
from nestor.schemas.base import EXAMPLE_DIGEST
from nestor_server.http import files, problem_documents
from nestor_server.http.checks.bodies import BodyLimit, takes
from nestor_server.http.openapi.responses import BINARY, FILE, OCTETS, Described, conflict, headers, problem
from nestor_server.http.transactions import Reader, TransactionRoute, Tx, Writer
from nestor_server.models import Blob
from nestor_server.routes.parameters import AppSettings
from nestor_server.services.access.tokens import Caller
from nestor_server.storage import blobs
from nestor_server.storage.tensor_blobs import Slice

router = APIRouter(route_class=TransactionRoute, prefix="/blobs", tags=["blobs"])

ByDigest = Annotated[Digest, Path(description="the `digest` of a blob", examples=[EXAMPLE_DIGEST])]
ByUpload = Annotated[UUID, Path(description="the `id` of an upload")]
ByEither = Annotated[
    UUID | Digest, Path(description="the `id` of an upload, or the `digest` of a blob", examples=[EXAMPLE_DIGEST])
]
PROGRESS = headers("Upload-Offset", "Upload-Length")
TOO_LARGE: Described = {413: problem("The blob, or the piece of it, is larger than this server takes.")}
ANNOUNCED: Described = TOO_LARGE | {
    200: {"model": schemas.Upload, "description": "The blob is stored already.", "headers": headers("Location")},
    201: {"headers": headers("Location")},
}
CONTINUED: Described = (
    conflict("The upload continues at another offset: ask for it with HEAD.")
    | TOO_LARGE
    | {204: {"description": "The bytes are stored.", "headers": PROGRESS}}
)
FOUND: Described = {
    200: {
        "description": "Of an upload, the offset at which it continues. Of a blob, the headers of GET.",
        "headers": PROGRESS | FILE["responses"][200]["headers"],
    },
    304: FILE["responses"][304],
}
PIECE: dict[str, Any] = {
    "requestBody": {
        "description": f"The next bytes, at most {CHUNK_BYTES}.",
        "required": True,
        "content": {OCTETS: {"schema": BINARY | {"maxLength": CHUNK_BYTES}}},
    }
}


async def _body(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_body)]
Offset = Annotated[
    int,
    Header(alias="Upload-Offset", ge=0, le=2**62, description="where these bytes begin", examples=[0]),
]


@router.post("", status_code=201, responses=ANNOUNCED)
def create_blob(
    new: schemas.BlobCreate, caller: Writer, session: Tx, response: Response, settings: AppSettings
) -> schemas.Upload:
    """Announce bytes by their digest. The response says at which offset to continue; 200 if the blob is complete."""
    blob = blobs.announce(session, caller.user_id, new.digest, new.size, limit=settings.max_blob_bytes)
    response.status_code = 200 if blob.complete else 201
    response.headers["Location"] = f"{API}/blobs/{blob.digest if blob.complete else blob.id}"
    return schemas.Upload(id=None if blob.complete else blob.id, digest=blob.digest, offset=blob.offset, size=blob.size)


@router.head("/{blob}", status_code=200, response_class=Response, responses=FOUND)
def head_blob(blob: ByEither, request: Request, caller: Reader, session: Tx) -> Response:
    """The offset at which an upload continues, or the size of a blob."""
    if isinstance(blob, UUID):
        return Response(headers=_progress_headers(blobs.upload(session, caller.user_id, blob)))
    return _file(blob, request, caller, session)


@router.patch("/{blob}", status_code=204, responses=CONTINUED, openapi_extra=PIECE)
@takes(BodyLimit(CHUNK_BYTES, ChunkTooLarge))
def append_to_blob(
    data: Body, blob: ByUpload, request: Request, caller: Writer, session: Tx, upload_offset: Offset
) -> Response:
    """The next bytes, at most 4 MiB. The last ones are accepted if all bytes together hash to the digest.

    `Upload-Offset` of the response is where to continue. It may be lower than the end of these bytes: a server that has
    restarted verifies earlier bytes again, some in each request, before it takes the last one.
    """
    try:
        upload = blobs.append(session, caller.user_id, blob, upload_offset, data)
    except DigestMismatch as error:
        # Answered instead of raised, so that the transaction, which deletes the wrong bytes, is committed.
        return problem_documents.response(error, request.state.request_id)
    return Response(status_code=204, headers=_progress_headers(upload))


@router.get("/{blob}", **FILE)
def download_blob(blob: ByDigest, request: Request, caller: Reader, session: Tx) -> Response:
    """The bytes with this digest, or a range of them."""
    return _file(blob, request, caller, session)


def _file(digest: str, request: Request, caller: Caller, session: Session) -> Response:
    found = blobs.find(session, caller.user_id, digest)
    return files.file_response(request, Slice.whole(found), name=digest, immutable=True)


def _progress_headers(blob: Blob) -> dict[str, str]:
    return {
        "Upload-Offset": str(blob.offset),
        "Upload-Length": str(blob.size),
        "Cache-Control": "no-store",
    }
