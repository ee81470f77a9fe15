"""The part of a client that has notices about trials sent to a program of its user.

Written by `python -m nestor.remote.asynchronous` from nestor.remote.webhooks.
"""

from __future__ import annotations

from uuid import UUID

from nestor import schemas
from nestor.remote.asynchronous.connection import AsyncConnection


class AsyncWebhooks(AsyncConnection):
    """Where notices are sent, which ones, and what became of each. All of it takes a write token."""

    async def create_webhook(self, new: schemas.WebhookCreate) -> schemas.WebhookCreated:
        """Send notices to an address. The result is the only copy of the secret that signs them.

        Raises:
            WebhooksDisabled, WebhookAddressRefused: the server's operator does not allow the address.
            WebhookUrlInvalid, StudyNotFound
            TooManyWebhooks
        """
        return await self._post("/webhooks", new, schemas.WebhookCreated)

    async def webhooks(self) -> list[schemas.Webhook]:
        """The webhooks of this user, oldest first."""
        return list((await self._get("/webhooks", schemas.Webhooks)).items)

    async def webhook(self, webhook_id: UUID) -> schemas.Webhook:
        """One webhook, and why the server has disabled it, if it has.

        Raises:
            WebhookNotFound
        """
        return await self._get(f"/webhooks/{webhook_id}", schemas.Webhook)

    async def change_webhook(self, webhook_id: UUID, patch: schemas.WebhookPatch) -> schemas.Webhook:
        """Change which notices are sent, or disable or enable the webhook.

        Raises:
            WebhookNotFound
        """
        return await self._patch(f"/webhooks/{webhook_id}", patch, schemas.Webhook)

    async def delete_webhook(self, webhook_id: UUID) -> None:
        """Delete a webhook, and the notices that wait for it.

        Raises:
            WebhookNotFound
        """
        await self._transport.request("DELETE", f"/webhooks/{webhook_id}")

    async def test_webhook(self, webhook_id: UUID) -> schemas.WebhookDelivery:
        """Send a notice of the type `webhook.test`.

        Raises:
            WebhookNotFound
        """
        return await self._post(f"/webhooks/{webhook_id}/test", None, schemas.WebhookDelivery)

    async def webhook_deliveries(self, webhook_id: UUID, limit: int = 100) -> list[schemas.WebhookDelivery]:
        """The newest notices, sent or waiting, newest first.

        Raises:
            WebhookNotFound
        """
        path = f"/webhooks/{webhook_id}/deliveries"
        return list((await self._get(path, schemas.WebhookDeliveries, limit=limit)).items)
