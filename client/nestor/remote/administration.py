"""The part of a client that asks about the server, and manages the tokens and the webhooks of its user."""

from __future__ import annotations

from urllib.parse import quote
from uuid import UUID

from nestor import schemas
from nestor.remote.connection import Connection
from nestor.remote.transport import read


class Administration(Connection):
    """The server, its workers, who may use it, and where notices about trials are sent."""

    def me(self) -> schemas.Me:
        """The user and the scope of this client's token."""
        return self._get("/me", schemas.Me)

    def version(self) -> schemas.Version:
        """The versions of the server and of its interface."""
        return self._get("/version", schemas.Version)

    def create_token(self, new: schemas.TokenCreate) -> schemas.TokenCreated:
        """Create another token of the same user. This takes an admin token, and the result is the only copy.

        Raises:
            Forbidden
        """
        return self._post("/tokens", new, schemas.TokenCreated)

    def tokens(self) -> list[schemas.Token]:
        """The valid tokens of this user, oldest first."""
        return list(self._pages(lambda cursor: self._get("/tokens", schemas.TokenPage, **cursor)))

    def revoke_token(self, token_id: UUID) -> None:
        """Revoke a token of this user with immediate effect.

        Every token can revoke itself. A token that may write can also revoke others that may not do more.

        Raises:
            TokenNotFound
            Forbidden
        """
        self._transport.request("DELETE", f"/tokens/{token_id}")

    def activity(self) -> schemas.Activity:
        """What goes on in all studies of this user, and how many trials wait for a worker."""
        return self._get("/activity", schemas.Activity)

    def workers(self) -> schemas.Workers:
        """The workers that can run trials, which trials of this user they run, and how many trials wait for them."""
        return self._get("/workers", schemas.Workers)

    def drain(self, worker: str) -> schemas.Workers:
        """Let a worker process hand its trials over and take no more. This takes an admin token.

        Args:
            worker: the id of the process, or of one of its slots.

        Returns:
            The slots of the process. It can be stopped when all are drained.

        Raises:
            WorkerNotFound
            Forbidden
        """
        return self._post(f"/workers/{quote(str(worker), safe='')}/drain", None, schemas.Workers)

    def undrain(self, worker: str) -> schemas.Workers:
        """Let a worker process that drains take trials again. This takes an admin token.

        Raises:
            WorkerNotFound
            Forbidden
        """
        response = self._transport.request("DELETE", f"/workers/{quote(str(worker), safe='')}/drain")
        return read(schemas.Workers, response)

    def presets(self) -> schemas.Presets:
        """What workers build by themselves: presets, and the entry points of packages that running workers have."""
        return self._get("/presets", schemas.Presets)

    # --- webhooks: these take a write token -------------------------------------------------------

    def create_webhook(self, new: schemas.WebhookCreate) -> schemas.WebhookCreated:
        """Send notices to an address. The result is the only copy of the secret that signs them.

        Raises:
            WebhooksDisabled, WebhookAddressRefused: the server's operator does not allow the address.
            WebhookUrlInvalid, StudyNotFound
            TooManyWebhooks
        """
        return self._post("/webhooks", new, schemas.WebhookCreated)

    def webhooks(self) -> list[schemas.Webhook]:
        """The webhooks of this user, oldest first."""
        return list(self._get("/webhooks", schemas.Webhooks).items)

    def webhook(self, webhook_id: UUID) -> schemas.Webhook:
        """One webhook, and why the server has disabled it, if it has.

        Raises:
            WebhookNotFound
        """
        return self._get(f"/webhooks/{webhook_id}", schemas.Webhook)

    def change_webhook(self, webhook_id: UUID, patch: schemas.WebhookPatch) -> schemas.Webhook:
        """Change which notices are sent, or disable or enable the webhook.

        Raises:
            WebhookNotFound
        """
        return self._patch(f"/webhooks/{webhook_id}", patch, schemas.Webhook)

    def delete_webhook(self, webhook_id: UUID) -> None:
        """Delete a webhook, and the notices that wait for it.

        Raises:
            WebhookNotFound
        """
        self._transport.request("DELETE", f"/webhooks/{webhook_id}")

    def test_webhook(self, webhook_id: UUID) -> schemas.WebhookDelivery:
        """Send a notice of the type `webhook.test`.

        Raises:
            WebhookNotFound
        """
        return self._post(f"/webhooks/{webhook_id}/test", None, schemas.WebhookDelivery)

    def webhook_deliveries(self, webhook_id: UUID, limit: int = 100) -> list[schemas.WebhookDelivery]:
        """The newest notices, sent or waiting, newest first.

        Raises:
            WebhookNotFound
        """
        path = f"/webhooks/{webhook_id}/deliveries"
        return list(self._get(path, schemas.WebhookDeliveries, limit=limit).items)
