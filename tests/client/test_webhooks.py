"""Webhooks from Python and from a shell, and the page that describes them."""

from __future__ import annotations

import json
import os
from typing import Any, cast

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from nestor import Client, schemas
from nestor.errors import InvalidInput, StudyNotFound, WebhookAddressRefused, WebhookNotFound
from nestor.schemas import DeliveryStatus, WebhookEvent
from testbed.server import Server, wait_for
from tests.client.shell import Shell
from tests.support.webhooks import PAGE, documented_verify, receiving


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url, server.new_token())


def test_a_webhook_is_created_changed_tested_and_deleted(client: Client):
    with client, receiving() as receiver:
        hook = client.create_webhook(schemas.WebhookCreate(url=receiver.url))
        assert client.webhooks() == [client.webhook(hook.id)]
        changed = client.change_webhook(hook.id, schemas.WebhookPatch(events=(WebhookEvent.failed,)))
        assert (changed.events, changed.enabled) == ((WebhookEvent.failed,), True)
        for unchanged in (schemas.WebhookPatch(), schemas.WebhookPatch(events=None, enabled=None)):
            assert client.change_webhook(hook.id, unchanged) == changed
        with pytest.raises(InvalidInput, match="enabled=1"):
            schemas.WebhookPatch(enabled=cast(Any, 1))
        sent = client.test_webhook(hook.id)
        wait_for(lambda: client.webhook_deliveries(hook.id)[0].status is DeliveryStatus.delivered, "the test")
        assert [one.id for one in client.webhook_deliveries(hook.id, limit=1)] == [sent.id]
        (received,) = receiver.received
        assert documented_verify(hook.secret, received.headers, received.body)["type"] == "webhook.test"
        assert client.change_webhook(hook.id, schemas.WebhookPatch(enabled=False)).enabled is False
        client.delete_webhook(hook.id)
        with pytest.raises(WebhookNotFound, match="nestor webhook list"):
            client.delete_webhook(hook.id)
        with pytest.raises(WebhookAddressRefused, match="NESTOR_WEBHOOK_ALLOW"):
            client.create_webhook(schemas.WebhookCreate(url="http://10.0.0.1"))


def test_a_webhook_is_managed_from_a_shell(server: Server):
    shell = Shell(NESTOR_SERVER=server.url, NESTOR_TOKEN=server.new_token())
    shell("study", "create", "digits")
    with receiving() as receiver:
        hook, secret = shell("webhook", "create", receiver.url, "--event", "trial.failed", "--study", "digits").split()
        assert secret.startswith("whsec_")
        listed = shell("webhook", "list")
        assert hook in listed
        assert "enabled" in listed
        assert secret not in listed
        sent = shell("webhook", "test", hook).strip()
        deliveries = lambda: json.loads(shell("webhook", "deliveries", hook, "--json"))
        wait_for(lambda: deliveries()[0]["status"] == "delivered", "the test")
        assert sent in shell("webhook", "deliveries", hook)
        assert "deleted" in json.loads(shell("webhook", "delete", hook, "--json"))
        assert json.loads(shell("webhook", "list", "--json")) == []
        assert "trial.fialed" in shell("webhook", "create", receiver.url, "--event", "trial.fialed", code=1)
        assert StudyNotFound(study="other").args[0] in shell(
            "webhook", "create", receiver.url, "--study", "other", code=1
        )


def test_the_code_of_the_page_runs(server: Server, monkeypatch: pytest.MonkeyPatch):
    with receiving() as receiver:
        monkeypatch.setitem(os.environ, "RECEIVER", receiver.url)
        monkeypatch.setitem(os.environ, "NESTOR_SERVER", server.url)
        monkeypatch.setitem(os.environ, "NESTOR_TOKEN", server.new_token())
        page = Sybil([PythonCodeBlockParser()]).parse(PAGE)
        for example in page.examples():
            example.evaluate()
        wait_for(lambda: receiver.received, "the test")
        (received,) = receiver.received
        shown = page.namespace
        assert shown["verify"](shown["hook"].secret, received.headers, received.body)["type"] == "webhook.test"
