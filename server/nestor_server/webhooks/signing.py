"""Secrets and signatures of notices, as Standard Webhooks defines them: https://www.standardwebhooks.com."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from nestor.schemas.webhooks import SECRET_PREFIX, secret_bytes


def new_secret() -> str:
    """A secret of 256 random bits."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def body(type: str, created_at: datetime, data: dict[str, Any]) -> bytes:
    """A notice as JSON: `schemas.WebhookPayload`. It is the same in each attempt."""
    document = {"type": type, "timestamp": created_at.astimezone(UTC).isoformat(), "data": data}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def headers(secret: str, delivery_id: UUID, timestamp: int, content: bytes) -> dict[str, str]:
    """The headers by which a receiver knows who sent a notice, and when.

    Args:
        timestamp: of this attempt, in seconds since 1970.
    """
    signed = f"{delivery_id}.{timestamp}.".encode() + content
    signature = base64.b64encode(hmac.digest(secret_bytes(secret), signed, hashlib.sha256)).decode()
    return {"webhook-id": str(delivery_id), "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}
