"""/blobs: uploads that resume by offset, downloads by digest"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Request, Response

from nestor import schemas
from nestor.errors import DigestMismatch
from nestor.schemas import API, Digest
from nestor_server.http import files, problem_documents
from nestor_server.http.transactions import Reader, TransactionRoute, Tx, Writer
from nestor_server.models import Blob
from nestor_server.routes.parameters import AppSettings
from nestor_server.storage import blobs
from nestor_server.storage.tensor_blobs import Slice

router = APIRouter(route_class=TransactionRoute, prefix="/blobs", tags=["blobs"])

DigestInPath = Annotated[Digest, Path()]


async def _body(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_body)]
Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, le=2**62)]


@router.post("", status_code=201)
def begin(
    new: schemas.BlobCreate, caller: Writer, session: Tx, response: Response, settings: AppSettings
) -> schemas.Upload:
    """Announce bytes by their digest. The response says at which offset to continue; 200 if the blob is complete."""
    blob = blobs.announce(session, caller.user_id, new.digest, new.size, limit=settings.max_blob_bytes)
    response.status_code = 200 if blob.complete else 201
    response.headers["Location"] = f"{API}/blobs/{blob.digest if blob.complete else blob.id}"
    return schemas.Upload(id=None if blob.complete else blob.id, digest=blob.digest, offset=blob.offset, size=blob.size)


# Before the routes by digest, which would match this path too.
@router.head("/{upload_id:uuid}", status_code=200)
def progress(upload_id: UUID, caller: Writer, session: Tx) -> Response:
    """The offset at which an upload continues."""
    return Response(headers=_progress_headers(blobs.upload(session, caller.user_id, upload_id)))


@router.patch("/{upload_id:uuid}", status_code=204)
def append(
    data: Body, upload_id: UUID, request: Request, caller: Writer, session: Tx, upload_offset: Offset
) -> Response:
    """The next bytes, at most 4 MiB. The last ones are accepted if all bytes together hash to the digest.

    `Upload-Offset` of the response is where to continue. It may be lower than the end of these bytes: a server that has
    restarted verifies earlier bytes again, some in each request, before it takes the last one.
    """
    try:
        blob = blobs.append(session, caller.user_id, upload_id, upload_offset, data)
    except DigestMismatch as error:
        # Answered instead of raised, so that the transaction, which deletes the wrong bytes, is committed.
        return problem_documents.response(error, request.state.request_id)
    return Response(status_code=204, headers=_progress_headers(blob))


@router.get("/{digest}", response_class=Response)
@router.head("/{digest}", include_in_schema=False)
def read(digest: DigestInPath, request: Request, caller: Reader, session: Tx) -> Response:
    """The bytes with this digest, or a range of them."""
    blob = blobs.find(session, caller.user_id, digest)
    return files.file_response(request, Slice.whole(blob), name=digest, immutable=True)


def _progress_headers(blob: Blob) -> dict[str, str]:
    return {
        "Upload-Offset": str(blob.offset),
        "Upload-Length": str(blob.size),
        "Cache-Control": "no-store",
    }
