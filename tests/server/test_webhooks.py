"""Notices to a user's own program: signed, to allowed addresses alone, repeated until they are taken, and once."""

from __future__ import annotations

import base64
import contextlib
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import func, select, text, update

from nestor.errors import WebhookAddressRefused
from nestor.schemas import DeliveryStatus, State, WebhookData, WebhookEvent, WebhookPayload, WebhookTest
from nestor_server.models import Webhook, WebhookDelivery
from nestor_server.scheduling.reaper import Reaper
from nestor_server.scheduling.recording import LogRecord
from nestor_server.services.webhooks import MAX_WEBHOOKS
from nestor_server.settings import Settings
from nestor_server.webhooks import outbox, signing
from nestor_server.webhooks.addresses import AllowList
from testbed.server import Server, free_port, running_server, serving, wait_for
from testbed.services import Services
from tests.server.conftest import SPEC, Run, ok, problem
from tests.support.webhooks import LOOPBACK, Receiver, documented_verify, receiving

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ALL = [event.value for event in WebhookEvent]


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    """A server of two processes. They send to the loopback network, and to a host that resolves into no listed one."""
    allowed = f"{LOOPBACK}, http://hooks.example.com, http://*.example.org"
    with running_server(services, redis_db=3, server_workers=2, webhook_allow=allowed) as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def create(http: httpx.Client, receiver: Receiver | str, **fields: Any) -> dict[str, Any]:
    url = receiver if isinstance(receiver, str) else receiver.url
    return ok(http.post("/webhooks", json={"url": url} | fields))


def deliveries(http: httpx.Client, hook: dict[str, Any]) -> list[dict[str, Any]]:
    """Newest first."""
    return ok(http.get(f"/webhooks/{hook['id']}/deliveries"))["items"]


def until(http: httpx.Client, hook: dict[str, Any], status: str, n: int = 1) -> list[dict[str, Any]]:
    found = lambda: [one for one in deliveries(http, hook) if one["status"] == status]
    wait_for(lambda: len(found()) >= n, f"{n} notices that are {status}")
    return found()


def make_due(server: Server, **values: Any) -> None:
    """Let all pending notices be due now, in place of hours later."""
    with server.sessions.begin() as session:
        pending = update(WebhookDelivery).where(WebhookDelivery.status == DeliveryStatus.pending.value)
        session.execute(pending.values(next_attempt_at=func.now(), **values))


# --- what is sent ---------------------------------------------------------------------------------


def test_each_state_and_each_warning_of_a_trial_is_sent_signed_and_once(http, server, receiver, study, submit):
    hook = create(http, receiver, events=ALL)
    run = Run(server, UUID(submit()["id"]))
    run.record(2, logs=(LogRecord(1, "fine"), LogRecord(2, "the loss grows", "warning")))
    run.finish(State.failed, {"detail": "Step 3: the loss is NaN.", "code": "diverged"})
    until(http, hook, "delivered", 4)

    assert Counter(receiver.types()) == Counter(["trial.queued", "trial.running", "trial.warning", "trial.failed"])
    assert len({one.id for one in receiver.received}) == 4
    by_type = {one.payload["type"]: WebhookPayload.model_validate_json(one.body).data for one in receiver.received}
    by_type = {kind: data for kind, data in by_type.items() if isinstance(data, WebhookData)}
    assert by_type["trial.warning"].message == "the loss grows"
    failed = by_type["trial.failed"]
    assert (failed.trial_id, failed.study_id, failed.study) == (run.id, UUID(study), "study")
    assert (failed.number, failed.state, failed.step) == (0, State.failed, 2)
    assert failed.message == "Step 3: the loss is NaN."
    assert ok(httpx.get(server.url + failed.path, headers=dict(http.headers)))["seq"] == failed.seq
    assert by_type["trial.queued"].seq < by_type["trial.running"].seq < by_type["trial.warning"].seq < failed.seq
    for one in receiver.received:
        assert documented_verify(hook["secret"], one.headers, one.body) == one.payload
        assert one.headers["content-type"] == "application/json"


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp", "webhook-signature", "secret"])
def test_the_documented_snippet_finds_what_was_changed(http, receiver, changed):
    hook = create(http, receiver, secret=SECRET)
    assert hook["secret"] == SECRET
    ok(http.post(f"/webhooks/{hook['id']}/test"))
    until(http, hook, "delivered")
    (one,) = receiver.received
    headers, body, secret = dict(one.headers), one.body, SECRET
    assert documented_verify(secret, headers, body)["type"] == "webhook.test"
    assert WebhookPayload.model_validate_json(body).data == WebhookTest()
    if changed == "body":
        body = body.replace(b"test", b"best")
    elif changed == "secret":
        secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    elif changed == "webhook-timestamp":
        headers[changed] = str(int(headers[changed]) - 1)
    else:
        headers[changed] = headers[changed][:-2] + "AA"
    with pytest.raises(ValueError, match="signature"):
        documented_verify(secret, headers, body)


def test_a_notice_that_someone_kept_and_sends_again_is_too_old():
    body = b"{}"
    for age, outcome in ((299, contextlib.nullcontext()), (301, pytest.raises(ValueError, match="old"))):
        with outcome:
            documented_verify(SECRET, signing.headers(SECRET, uuid4(), int(time.time()) - age, body), body)


def test_only_chosen_events_of_a_chosen_study_are_sent(http, server, receiver, study, submit):
    other = ok(http.post("/studies", json={"name": "other"}))["id"]
    hook = create(http, receiver, events=["trial.complete"], study_id=study)
    for path in (f"/studies/{other}/trials", f"/studies/{study}/trials"):
        run = Run(server, UUID(ok(http.post(path, json=SPEC))["id"]))
        run.finish()
    until(http, hook, "delivered")
    assert [(one["type"], one["data"]["study"]) for one in deliveries(http, hook)] == [("trial.complete", "study")]


def test_requests_that_change_no_state_send_nothing(http, receiver, submit):
    hook = create(http, receiver, events=ALL)
    path = f"/trials/{submit()['id']}"
    ok(http.post(f"{path}/priority", json={"priority": -3}))
    ok(http.patch(path, json={"tags": ["a"]}))
    for action in ("pause", "pause", "resume", "cancel", "cancel"):
        ok(http.post(f"{path}/{action}"))
    until(http, hook, "delivered", 4)
    assert [one["type"] for one in reversed(deliveries(http, hook))] == [
        "trial.queued",
        "trial.paused",
        "trial.queued",
        "trial.cancelled",
    ]


def test_what_is_rolled_back_is_not_announced(server, http, receiver, submit):
    hook = create(http, receiver, events=ALL)
    trial = UUID(submit()["id"])
    with server.sessions() as session:
        outbox.write(session, trial, [{"seq": 2, "type": "log", "data": {"level": "warning", "text": "no"}}])
        assert session.scalar(select(func.count()).where(WebhookDelivery.webhook_id == UUID(hook["id"]))) == 2
        session.rollback()
    assert [one["type"] for one in deliveries(http, hook)] == ["trial.queued"]


# --- whose it is ----------------------------------------------------------------------------------


def test_a_user_sees_and_hears_nothing_of_another(http, stranger, server, receiver, study, submit):
    theirs = create(stranger, receiver, events=ALL)
    hook = create(http, receiver.url + "/mine", events=ALL)
    Run(server, UUID(submit()["id"])).finish()
    until(http, hook, "delivered", 3)
    assert {one.path for one in receiver.received} == {"/notices/mine"}
    assert deliveries(stranger, theirs) == []
    problem(stranger.post("/webhooks", json={"url": receiver.url, "study_id": study}), 404, "study-not-found")
    path = f"/webhooks/{hook['id']}"
    for method, suffix in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries")):
        body = {"json": {}} if method == "PATCH" else {}
        problem(stranger.request(method, path + suffix, **body), 404, "webhook-not-found")
    assert [one["id"] for one in ok(stranger.get("/webhooks"))["items"]] == [theirs["id"]]


def test_a_secret_is_shown_once_and_webhooks_take_a_write_token(http, server, receiver):
    hook = create(http, receiver)
    assert hook["secret"].startswith("whsec_")
    assert hook["events"] == ["trial.complete", "trial.pruned", "trial.failed", "trial.cancelled", "trial.warning"]
    path = f"/webhooks/{hook['id']}"
    ok(http.post(f"{path}/test"))
    shown = [http.get("/webhooks"), http.get(path), http.patch(path, json={}), http.get(f"{path}/deliveries")]
    for response in shown:
        ok(response)
        assert hook["secret"].removeprefix("whsec_") not in response.text
    assert hook["secret"] not in server.log.read_text()
    with server.http(server.new_token(scope="read")) as reader:  # an address can hold a secret, too
        problem(reader.get("/webhooks"), 403, "forbidden")


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%%", SECRET[6:]])
def test_a_secret_that_signs_nothing_well_is_refused(http, receiver, secret):
    refused = http.post("/webhooks", json={"url": receiver.url, "secret": secret})
    assert "24 to 64 bytes" in problem(refused, 422, "validation-failed")["detail"]


def test_a_user_has_a_bounded_number_of_webhooks(http, receiver):
    hooks = [create(http, receiver) for _ in range(MAX_WEBHOOKS)]
    document = problem(http.post("/webhooks", json={"url": receiver.url}), 409, "too-many-webhooks")
    assert str(MAX_WEBHOOKS) in document["detail"]
    assert http.delete(f"/webhooks/{hooks[0]['id']}").status_code == 204
    create(http, receiver)


def test_a_repeated_request_creates_one_webhook(http, receiver):
    key = {"Idempotency-Key": "one webhook"}
    first, second = (ok(http.post("/webhooks", json={"url": receiver.url}, headers=key)) for _ in range(2))
    assert first == second
    assert len(ok(http.get("/webhooks"))["items"]) == 1


def test_what_waits_is_deleted_with_its_webhook_its_study_and_its_user(http, server, study, submit):
    dead = f"http://127.0.0.1:{free_port()}/"
    of_study = create(http, dead, events=ALL, study_id=study)
    of_all = create(http, dead, events=ALL)
    submit()

    def waiting(hook: dict[str, Any]) -> int:
        with server.sessions() as session:
            count = select(func.count()).where(WebhookDelivery.webhook_id == UUID(hook["id"]))
            return session.scalars(count).one()

    assert (waiting(of_study), waiting(of_all)) == (1, 1)
    assert http.delete(f"/webhooks/{of_all['id']}").status_code == 204
    assert (waiting(of_study), waiting(of_all)) == (1, 0)
    of_user = create(http, dead, events=ALL)
    assert http.delete(f"/studies/{study}").status_code == 204
    problem(http.get(f"/webhooks/{of_study['id']}"), 404, "webhook-not-found")
    assert (waiting(of_study), waiting(of_user)) == (0, 0)  # and nothing more is said about the study
    ok(http.post(f"/webhooks/{of_user['id']}/test"))
    assert waiting(of_user) == 1
    with server.sessions.begin() as session:
        owner = session.get_one(Webhook, UUID(of_user["id"])).owner_id
        session.execute(text("DELETE FROM users WHERE id = :id"), {"id": owner})
    assert waiting(of_user) == 0


# --- where it may be sent -------------------------------------------------------------------------


def test_without_the_setting_no_webhook_can_be_created(services: Services):
    with running_server(services, redis_db=3) as closed, closed.http() as http:
        document = problem(http.post("/webhooks", json={"url": "https://example.com"}), 403, "webhooks-disabled")
        assert "NESTOR_WEBHOOK_ALLOW" in document["detail"]


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "http://0.0.0.0/",
    ],
)
def test_an_address_that_is_not_allowed_is_refused_at_creation(http, url):
    document = problem(http.post("/webhooks", json={"url": url}), 403, "webhook-address-refused")
    assert "NESTOR_WEBHOOK_ALLOW" in document["detail"]


@pytest.mark.parametrize(
    "url", ["", "nonsense", "ftp://127.0.0.1/", "http://user:password@127.0.0.1/", "http://127.0.0.1:99999/", "http://"]
)
def test_what_is_not_the_url_of_a_web_address_is_refused(http, url):
    refused = http.post("/webhooks", json={"url": url})
    problem(refused, 422, "webhook-url-invalid" if url else "validation-failed")


def test_a_name_that_resolves_to_another_network_is_refused_when_it_is_sent(services: Services):
    """`localhost` is a listed host, and so may resolve to public addresses alone."""
    with (
        receiving() as receiver,
        running_server(services, redis_db=3, webhook_allow="http://localhost") as server,
        server.http() as http,
    ):
        hook = create(http, receiver.url.replace("127.0.0.1", "localhost"))
        ok(http.post(f"/webhooks/{hook['id']}/test"))
        wait_for(lambda: deliveries(http, hook)[0]["error"], "an attempt")
        (sent,) = deliveries(http, hook)
        assert "does not send notices to http://localhost." in sent["error"]  # and not where that is
        assert "allows none of 127.0.0.1" in server.log.read_text().replace("::1, ", "")
        assert (sent["status"], sent["http_status"], receiver.received) == ("pending", None, [])


@pytest.mark.parametrize(
    ("resolved", "is_public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("64:ff9b::5db8:d822", True),  # NAT64 of the first
        ("10.0.0.1", False),
        ("64:ff9b::a00:1", False),  # NAT64 of the one before
        ("::ffff:10.0.0.1", False),
        ("2002:a00:1::", False),  # 6to4 of it
        ("64:ff9b:1::a00:1", False),  # NAT64 by a prefix of the own network
        ("fec0::1", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("4000::1", False),
    ],
)
def test_a_listed_host_may_have_public_addresses_alone(resolved: str, is_public: bool):
    allowed = AllowList.parse("hooks.example.com, xn--bcher-kva.example")
    for url in ("https://hooks.example.com/", "https://bücher.example/"):
        target = allowed.expect(url)
        if is_public:
            assert allowed.choose(target, ["10.0.0.1", resolved]) == ip_address(resolved)
        else:
            with pytest.raises(WebhookAddressRefused) as refused:
                allowed.choose(target, [resolved])
            assert resolved.partition("%")[0] not in str(refused.value)


def test_the_setting_can_be_handed_on():
    """As a variable of another process, and with the other settings."""
    entries = "http://10.0.0.0/8, *.Example.org,https://fd00::/8, hooks.example.com"
    settings = Settings.model_validate({"webhook_allow": entries})
    assert settings.model_dump()["webhook_allow"] == "http://10.0.0.0/8,*.example.org,fd00::/8,hooks.example.com"
    assert Settings.model_validate(settings.model_dump()) == settings


def test_a_name_that_resolves_into_a_listed_network_is_allowed(http, receiver):
    hook = create(http, receiver.url.replace("127.0.0.1", "localhost"))
    ok(http.post(f"/webhooks/{hook['id']}/test"))
    until(http, hook, "delivered")
    assert receiver.received[0].headers["host"].startswith("localhost:")


# --- receivers that fail --------------------------------------------------------------------------


def test_a_notice_is_sent_again_after_an_error_with_the_same_id_and_body(http, server, receiver):
    receiver.answer = lambda n: (500, {}) if n <= 2 else (200, {})
    hook = create(http, receiver, secret=SECRET)
    ok(http.post(f"/webhooks/{hook['id']}/test"))
    for n in (1, 2):
        wait_for(lambda n=n: deliveries(http, hook)[0]["attempts"] == n and deliveries(http, hook)[0]["error"], "it")
        (sent,) = deliveries(http, hook)
        assert (sent["status"], sent["http_status"]) == ("pending", 500)
        assert sent["error"] == "the receiver answered 500"
        make_due(server, error=None)  # which the next attempt sets again
    until(http, hook, "delivered")
    assert len(receiver.received) == 3
    assert len({(one.id, one.body) for one in receiver.received}) == 1
    for one in receiver.received:
        documented_verify(SECRET, one.headers, one.body)
    (sent,) = deliveries(http, hook)
    assert (sent["attempts"], sent["http_status"], sent["error"]) == (3, 200, None)
    assert ok(http.get(f"/webhooks/{hook['id']}"))["succeeded_at"] == sent["delivered_at"]


def test_each_attempt_follows_after_twice_the_time_up_to_four_hours(http, server, receiver):
    hook = create(http, receiver)
    ok(http.post(f"/webhooks/{hook['id']}/test"))
    (sent,) = until(http, hook, "delivered")
    of = WebhookDelivery.id == UUID(sent["id"])
    waits = []
    with server.sessions() as session:  # which is rolled back, so that nobody sends it
        for attempt in range(1, 16):
            session.execute(update(WebhookDelivery).where(of).values(attempts=attempt, status="pending"))
            row = session.scalars(select(WebhookDelivery).where(of).execution_options(populate_existing=True)).one()
            about = (row.id, row.webhook_id, attempt, row.type, row.data, row.created_at)
            outbox.refused(session, outbox.Notice(*about, url=hook["url"], secret=""), "it answered 500", 500)
            waits.append(session.scalar(select(WebhookDelivery.next_attempt_at - func.now()).where(of)))
    for n, wait in enumerate(waits):
        expected = min(5 * 2**n, 4 * 3600)
        assert 0.8 * expected <= wait.total_seconds() <= 1.2 * expected


def test_a_receiver_that_hangs_delays_nobody_else(http, server, receiver, submit):
    """It accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = create(http, f"http://127.0.0.1:{silent.getsockname()[1]}/", events=ALL)
        hook = create(http, receiver, events=ALL)
        runs = [Run(server, UUID(submit()["id"])) for _ in range(5)]
        for run in runs:
            run.finish()
        until(http, hook, "delivered", 15)
        attempted = [one for one in deliveries(http, hanging) if one["attempts"]]
        assert 1 <= len(attempted) <= 2  # one at a time from each process
        assert {one["status"] for one in deliveries(http, hanging)} == {"pending"}
        wait_for(lambda: any(one["error"] for one in deliveries(http, hanging)), "the attempt to end")
        assert "did not answer within" in next(one["error"] for one in deliveries(http, hanging) if one["error"])


def test_a_redirect_is_not_followed(http, receiver):
    with receiving() as elsewhere:
        receiver.answer = lambda n: (307, {"Location": elsewhere.url})
        hook = create(http, receiver)
        ok(http.post(f"/webhooks/{hook['id']}/test"))
        wait_for(lambda: deliveries(http, hook)[0]["error"], "an attempt")
        assert deliveries(http, hook)[0]["error"] == "the receiver answered 307, a redirect, which is not followed"
        assert (len(receiver.received), elsewhere.received) == (1, [])


def test_a_receiver_that_is_gone_disables_its_webhook(http, receiver):
    queued = threading.Event()  # otherwise each notice may be answered before the next one is queued
    receiver.answer = lambda n: (410, {}) if queued.wait(60) else (500, {})
    hook = create(http, receiver)
    path = f"/webhooks/{hook['id']}"
    for _ in range(3):
        ok(http.post(f"{path}/test"))
    queued.set()
    until(http, hook, "failed", 3)
    assert len(receiver.received) <= 2  # one at a time from each process
    found = ok(http.get(path))
    assert (found["enabled"], found["disabled_reason"]) == (False, "the receiver answered 410")
    receiver.answer = lambda n: (200, {})
    assert ok(http.patch(path, json={"enabled": True}))["disabled_reason"] is None
    ok(http.post(f"{path}/test"))
    until(http, hook, "delivered")


def test_a_webhook_that_nothing_has_reached_for_a_day_is_disabled(http, server, submit):
    hook = create(http, f"http://127.0.0.1:{free_port()}/", events=ALL)
    submit()
    wait_for(lambda: deliveries(http, hook)[0]["error"], "an attempt")
    assert "ConnectError" in deliveries(http, hook)[0]["error"]
    make_due(server, created_at=func.now() - timedelta(hours=24))
    until(http, hook, "failed")
    found = ok(http.get(f"/webhooks/{hook['id']}"))
    assert found["enabled"] is False
    assert re.match(r"no notice has arrived since \S+ \S+ UTC: ConnectError", found["disabled_reason"])
    submit()
    assert len(deliveries(http, hook)) == 1  # nothing more is written for it


def test_a_notice_that_is_refused_for_a_day_does_not_disable_a_webhook_that_takes_others(http, server, receiver):
    receiver.answer = lambda n: (400, {}) if n == 1 else (200, {})
    hook = create(http, receiver)
    path = f"/webhooks/{hook['id']}"
    ok(http.post(f"{path}/test"))
    wait_for(lambda: deliveries(http, hook)[0]["error"], "an attempt")
    ok(http.post(f"{path}/test"))
    until(http, hook, "delivered")
    receiver.answer = lambda n: (400, {})
    make_due(server, created_at=func.now() - timedelta(hours=24))
    until(http, hook, "failed")
    assert ok(http.get(path))["enabled"] is True


# --- servers that fail ----------------------------------------------------------------------------


def test_several_servers_send_each_notice_once(http, server, receiver, submit):
    """Two processes of one server, and a second server on the same database."""
    ours = server.settings
    urls = {"database_url": ours.database_url, "redis_url": ours.redis_url, "webhook_allow": ours.webhook_allow}
    hooks = [create(http, f"{receiver.url}/{i}", events=ALL) for i in range(5)]
    with serving(urls):
        for _ in range(10):
            Run(server, UUID(submit()["id"])).finish()
        for hook in hooks:
            until(http, hook, "delivered", 30)
    assert len(receiver.received) == 5 * 30
    assert len({one.id for one in receiver.received}) == 5 * 30


def test_a_server_that_is_killed_after_the_commit_loses_nothing(services: Services):
    port = free_port()
    with running_server(services, redis_db=3, webhook_allow=LOOPBACK) as server:
        with server.http() as http:
            hook = create(http, f"http://127.0.0.1:{port}/", events=ALL)
            study = ok(http.post("/studies", json={"name": "study"}))["id"]
            ok(http.post(f"/studies/{study}/trials", json=SPEC))
        server.stop(signal.SIGKILL)
        with receiving(port) as receiver:
            server.start()
            make_due(server)
            with server.http() as http:
                until(http, hook, "delivered")
            assert receiver.types() == ["trial.queued"]


def test_a_server_that_is_killed_in_an_attempt_makes_it_again_with_the_same_id(services: Services):
    answering = threading.Event()

    def answer(n: int) -> tuple[int, dict[str, str]]:
        if n == 1:
            answering.wait()
        return 200, {}

    with (
        receiving() as receiver,
        running_server(services, redis_db=3, webhook_allow=LOOPBACK) as server,
    ):
        receiver.answer = answer
        with server.http() as http:
            hook = create(http, receiver, secret=SECRET)
            ok(http.post(f"/webhooks/{hook['id']}/test"))
            wait_for(lambda: receiver.received, "the first attempt")
        server.stop(signal.SIGKILL)
        answering.set()
        server.start()
        with server.http() as http:
            (sent,) = deliveries(http, hook)
            assert (sent["status"], sent["attempts"]) == ("pending", 1)  # another process waits until it is over
            make_due(server)
            until(http, hook, "delivered")
        first, second = receiver.received
        assert (first.id, first.body) == (second.id, second.body)
        documented_verify(SECRET, second.headers, second.body)


def test_the_outbox_is_bounded(http, server, receiver, monkeypatch):
    hook = create(http, receiver)
    path = f"/webhooks/{hook['id']}"
    sent = [ok(http.post(f"{path}/test"))["id"] for _ in range(5)]
    until(http, hook, "delivered", 5)
    with server.sessions.begin() as session:
        old = update(WebhookDelivery).where(WebhookDelivery.id == UUID(sent[4]))
        session.execute(old.values(created_at=func.now() - outbox.KEPT_FOR - timedelta(seconds=1)))
    monkeypatch.setattr(outbox, "MOST_KEPT", 3)

    def kept() -> list[str]:  # the server's own reaper may run at this moment, and then this one does nothing
        Reaper(server.sessions, server.settings).run_once(collect_garbage=True)
        return [one["id"] for one in deliveries(http, hook)]

    wait_for(lambda: kept() == [sent[3], sent[2], sent[1]], "the outbox to be purged")
