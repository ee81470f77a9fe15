"""What is wrong with a request or an upload."""

from __future__ import annotations

from nestor.errors.base import NestorError


class InvalidInput(NestorError):
    """What was given cannot be used."""

    status = 422
    message = "{reason}"


class ValidationFailed(InvalidInput):
    """Fields are missing, unknown or of the wrong kind; `errors` names each."""

    message = "{summary}"


class SchemaInvalid(InvalidInput):
    """A value of `nestor.schemas` was built from what it cannot hold."""

    message = "{reason}"


class BodyUnreadable(InvalidInput):
    """A request's body is not what the route reads."""

    message = "{reason}."
    remedy = "Send a JSON document, encoded as UTF-8."


class ValueNotStorable(InvalidInput):
    """The database cannot hold a value."""

    message = "A value is too large, or cannot be stored as text."
    remedy = "Send a smaller or plainer one."


class CursorInvalid(InvalidInput):
    """A cursor was not given by this list."""

    message = "This cursor belongs to another list."
    remedy = "Omit `cursor` to start from the first page."


class StepColumnUnknown(InvalidInput):
    """A recorded step has no such column."""

    message = "There is no column {column!r}; the columns are {columns}."
    remedy = "Name some of these."


class TensorNotNumpy(InvalidInput):
    """NumPy has no dtype for a tensor."""

    message = "{name!r} cannot be written as npy: {reason}."
    remedy = "Ask for format=safetensors."


class RaterOfSeveralTypes(InvalidInput):
    """A network whose parameters have several data types is to be read as one file."""

    message = "The parameters of {name!r} have several data types, so they are not stored together."
    remedy = "Read all hyperparameters, and choose those of the network."


class SliceInvalid(InvalidInput):
    """A part of a tensor is not written as the route reads it, or the tensor has no such part."""

    message = "The slice {given!r} cannot be used: {reason}."
    remedy = "Write indices and ranges of the leading dimensions, such as 10:20 or 3,0:5."


class SliceTooFine(InvalidInput):
    """A part of a tensor lies in too many places of its file."""

    message = "The slice {given!r} lies in {pieces:,} places of the file; at most {limit:,} are read at once."
    remedy = "Select less of the leading dimensions, or ask for the whole of the last ones and cut them yourself."


class EntryUnknown(InvalidInput):
    """A hyperparameter has no entry of that index."""

    message = "{name!r} has no entry {given!r}; its shape is {shape}, with the flat indices 0 to {last}."
    remedy = "Give flat indices, or positions such as 3.5 for row 3 and column 5, separated by commas."


class TooManyEntries(InvalidInput):
    """More entries were asked for than one response has."""

    message = "{n:,} entries were asked for; at most {limit} are read at once."
    remedy = "Ask for fewer, or for a slice of the tensor."


class ExampleUnknown(InvalidInput):
    """A split has no example of that number."""

    message = "The {split} split has no example {given!r}; its examples are 0 to {last}."
    remedy = "Give numbers, or ranges such as 0:20, separated by commas."


class PictureImpossible(InvalidInput):
    """A hyperparameter cannot be drawn in the way that was asked for."""

    message = "{name!r} of shape {shape} cannot be drawn: {reason}."
    remedy = "Tensors of shape (n, h, w) or (n, 1 or 3, h, w) are pictures; others are heat maps of all their entries."


class PictureTooLarge(InvalidInput):
    """A picture would take too much memory or time."""

    message = "This picture would have {n:,} {what}; at most {limit:,} are possible."
    remedy = "Ask for fewer pictures with `index`, for a smaller `scale`, or read a part of the tensor with `slice`."


class RangeEmpty(InvalidInput):
    """The lower end of a range is not below its upper end."""

    message = "low={low} is not below high={high}."
    remedy = "Exchange them, or leave one of them out."


class WebhookUrlInvalid(InvalidInput):
    """Notices cannot be sent to a URL."""

    message = "The URL of the webhook cannot be used: {reason}."
    remedy = "Write it like https://hooks.example.com/nestor."


class WebhookAllowInvalid(InvalidInput):
    """The setting NESTOR_WEBHOOK_ALLOW has an entry that is neither a host nor a network."""

    message = "NESTOR_WEBHOOK_ALLOW cannot be used: {entry!r} is neither a host nor a network."
    remedy = "Write it like hooks.example.com,*.example.org,http://10.0.0.0/8."


class BlobUrlInvalid(InvalidInput):
    """The setting NESTOR_BLOB_URL is not the URL of an object store."""

    message = "NESTOR_BLOB_URL cannot be used: {reason}."
    remedy = "Write it like file:///srv/nestor or s3://bucket/prefix."


class DataRootInvalid(InvalidInput):
    """An entry of the setting NESTOR_DATA_ROOTS is neither a directory nor a bucket."""

    message = "NESTOR_DATA_ROOTS cannot be used: {root!r} is neither an absolute path nor s3://bucket/prefix."
    remedy = "Write it like /data,s3://bucket/prefix."


# --- uploads --------------------------------------------------------------------------------------


class DigestMismatch(InvalidInput):
    """An upload arrived with other bytes than announced."""

    message = "The upload was announced as sha256:{expected} but its bytes hash to sha256:{actual}. Nothing was stored."
    remedy = "Compute the digest from the same bytes and upload them again."


class OffsetMismatch(InvalidInput):
    """An upload was continued at the wrong place."""

    status = 409
    message = "The upload stands at byte {expected}, not {actual}."
    remedy = "Ask for its offset with HEAD and continue there."


class BlobSizeDiffers(InvalidInput):
    """A digest was announced with another size than the stored blob has."""

    message = "The blob {digest} is stored already and has {stored} bytes, not {size}."
    remedy = "Compute size and digest from the same bytes."


class UploadTooLong(InvalidInput):
    """An upload would become longer than announced."""

    message = "The upload was announced with {size} bytes; these would make it longer."
    remedy = "Announce it again with its full size."


class TooLarge(NestorError):
    """A request has more bytes than this server takes."""

    status = 413
    message = "{what} is larger than this server takes ({limit} bytes)."
    remedy = "Send less, or raise {setting} on the server."


class StrangersBodyTooLarge(TooLarge):
    """The body of a request without a token is too large."""

    message = "{what} is larger than this server takes without a token ({limit} bytes)."
    remedy = "Send a token, or less."


class ChunkTooLarge(TooLarge):
    """A piece of an upload is too large."""

    message = "One PATCH carries at most {limit} bytes of an upload."
    remedy = "Send it in pieces of that size."


class BlobDamaged(NestorError):
    """The contents of a stored blob do not match its digest."""

    message = "The blob {digest} is damaged: its contents do not match the stored checksum."
    remedy = "Look for disk errors under the database or the object store, and restore a backup."


class BodyStalled(NestorError):
    """The client stopped sending the body of a request."""

    status = 408
    retryable = True
    message = "No byte of the body arrived for {seconds:g} s. Nothing was changed."
    remedy = "Send the request again. Over a slow connection, send less at once, or raise {setting} on the server."


class ServerBusy(NestorError):
    """More requests wait than the server lets wait."""

    status = 503
    retryable = True
    message = "The server is busy: {waiting} requests wait already. Nothing was changed."
    remedy = "Try again after the seconds that the header Retry-After names."


class TooManyRequests(NestorError):
    """A user sends more requests than the server takes."""

    status = 429
    retryable = True
    message = "You send more than {limit} requests a minute. Nothing was changed."
    remedy = "Wait for the seconds that the header Retry-After names, as Nestor's clients do."


class TooManyStreams(TooManyRequests):
    """A user follows more trials at once than the server lets follow."""

    message = "You have {limit} event streams open, and may not have more at a time."
    remedy = "Close some first, or ask the server's operator to raise NESTOR_MAX_STREAMS."


class QuotaExceeded(TooManyRequests):
    """A user would have more than the server keeps for a user."""

    message = "With this, you would have {total:,} {what}, and a user may have {limit:,}. Nothing was changed."
    remedy = "{advice}, or ask the server's operator to raise {setting}."


class Unavailable(NestorError):
    """A part that the server needs does not answer."""

    status = 503
    retryable = True
    message = "{part} does not answer right now. Nothing was changed."
    remedy = "Try again in a few seconds."
