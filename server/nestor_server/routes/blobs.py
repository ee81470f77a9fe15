"""/blobs: uploads that resume by offset, downloads by digest"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Request, Response

from nestor import schemas
from nestor.schemas import API, Digest
from nestor_server.http import files
from nestor_server.http.auth import Reader, Tx, Writer
from nestor_server.models import Blob
from nestor_server.routes.parameters import TheSessions, TheSettings
from nestor_server.storage import blobs
from nestor_server.storage.tensor_blobs import Slice

router = APIRouter(prefix="/blobs", tags=["blobs"])

ADigest = Annotated[Digest, Path()]


async def _body(request: Request) -> bytes:
    return await request.body()


# The first parameter, because a slow sender must not hold a database connection while it sends.
Bytes = Annotated[bytes, Depends(_body)]
Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, le=2**62)]


@router.post("", status_code=201)
def begin(
    new: schemas.BlobCreate, me: Writer, session: Tx, response: Response, settings: TheSettings
) -> schemas.Upload:
    """Announce bytes by their digest: the answer says from where on they are wanted. 200 when they are here already."""
    blob = blobs.announce(session, me.user_id, new.digest, new.size, limit=settings.max_blob_bytes)
    response.status_code = 200 if blob.complete else 201
    response.headers["Location"] = f"{API}/blobs/{blob.digest if blob.complete else blob.id}"
    return schemas.Upload(id=None if blob.complete else blob.id, digest=blob.digest, offset=blob.offset, size=blob.size)


# Before the digests, which its path could be taken for.
@router.head("/{upload_id:uuid}", status_code=200)
def where(upload_id: UUID, me: Writer, session: Tx) -> Response:
    """Where an upload stands."""
    return Response(headers=_offsets(blobs.upload(session, me.user_id, upload_id)))


@router.patch("/{upload_id:uuid}", status_code=204)
def append(data: Bytes, upload_id: UUID, me: Writer, session: Tx, upload_offset: Offset) -> Response:
    """The next bytes, at most 4 MiB of them. The last ones are answered once all of them hash to the digest."""
    blob = blobs.append(session, me.user_id, upload_id, upload_offset, data)
    return Response(status_code=204, headers=_offsets(blob))


@router.get("/{digest}", response_class=Response)
@router.head("/{digest}", include_in_schema=False)
def read(digest: ADigest, request: Request, me: Reader, session: Tx, sessions: TheSessions) -> Response:
    """The bytes of that digest, or a range of them."""
    blob = blobs.find(session, me.user_id, digest)
    content = Slice(b"", blob, 0, blob.size)
    return files.file(request, sessions, content, digest.removeprefix("sha256:"), name=digest, immutable=True)


def _offsets(blob: Blob) -> dict[str, str]:
    return {
        "Upload-Offset": str(blob.offset),
        "Upload-Length": str(blob.size),
        "Cache-Control": "no-store",
    }
