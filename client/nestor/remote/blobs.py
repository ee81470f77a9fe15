"""The part of a client that uploads: bytes by their digest, programs, and data sets."""

from __future__ import annotations

from uuid import UUID

from nestor import schemas
from nestor.remote import uploads
from nestor.remote.connection import Connection


class Blobs(Connection):
    """Stores what a problem consists of."""

    def upload(self, data: uploads.Content, *, what: str = "upload", show_progress_bar: bool = True) -> str:
        """Store `data` unless the server has it already, and return its digest "sha256:…".

        A broken upload is resumed. `what` labels the progress bar, which only large uploads show.

        Raises:
            TooLarge: the server's limit is NESTOR_MAX_BLOB_BYTES.
        """
        return uploads.upload(self._transport, data, what=what, show_progress_bar=show_progress_bar)

    def download(self, digest: str) -> bytes:
        """The bytes with this digest.

        Raises:
            BlobNotFound
        """
        return self._transport.request("GET", f"/blobs/{digest}").content

    def create_program(self, new: schemas.ProgramCreate) -> schemas.Program:
        """Register an exported problem whose two blobs were uploaded.

        Raises:
            BlobNotFound, ProgramInvalid
        """
        return self._post("/programs", new, schemas.Program)

    def create_dataset(self, new: schemas.DatasetCreate) -> schemas.Dataset:
        """Register a data set whose splits were uploaded.

        Raises:
            BlobNotFound, DatasetInvalid
        """
        return self._post("/datasets", new, schemas.Dataset)

    def dataset(self, dataset_id: UUID) -> schemas.Dataset:
        """A data set: the digest or the references of each split.

        Raises:
            DatasetNotFound
        """
        return self._get(f"/datasets/{dataset_id}", schemas.Dataset)
