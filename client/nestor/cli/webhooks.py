"""Commands about webhooks: where the server sends notices about trials, and what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from nestor.cli.arguments import JsonOption, ServerOption, complete_study, connect
from nestor.cli.output import moment, print_json, print_table

if TYPE_CHECKING:
    from nestor.schemas import WebhookDelivery

app = typer.Typer()
webhook_app = typer.Typer(help="Webhooks, which send notices about trials to your own program.", no_args_is_help=True)
app.add_typer(webhook_app, name="webhook")

WebhookArgument = Annotated[
    UUID, typer.Argument(help="The webhook's id, as `nestor webhook list` shows it.", metavar="ID")
]


@webhook_app.command("create")
def create_webhook(
    url: Annotated[str, typer.Argument(help="Address that the server's operator allows.", metavar="URL")],
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="What is sent, such as trial.failed; may be repeated. Default: the ends of trials, and warnings.",
            metavar="TYPE",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Only about trials of this study. Default: of all.", autocompletion=complete_study),
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Send notices to an address, and print the secret that signs them, which is shown once."""
    from nestor import schemas

    with connect(server) as client:
        given: dict[str, Any] = {"url": url} | ({"events": tuple(event)} if event else {})
        if study is not None:
            given["study_id"] = client.find_study(study).id
        made = client.create_webhook(schemas.build(schemas.WebhookCreate, given))
    return print_json(made.model_dump(mode="json")) if json else print(made.id, made.secret, sep="\n")


@webhook_app.command("list")
def list_webhooks(server: ServerOption = None, json: JsonOption = False) -> None:
    """List your webhooks, without their secrets."""
    with connect(server) as client:
        found = client.webhooks()
        if json:
            return print_json([hook.model_dump(mode="json") for hook in found])
        of_studies = any(hook.study_id is not None for hook in found)
        names = {study.id: study.name for study in client.studies()} if of_studies else {}
    rows = [
        (
            str(hook.id),
            hook.url,
            ", ".join(hook.events),
            "" if hook.study_id is None else names.get(hook.study_id, str(hook.study_id)),
            "enabled" if hook.enabled else f"disabled: {hook.disabled_reason or 'by you'}",
            moment(hook.succeeded_at),
        )
        for hook in found
    ]
    return print_table(("id", "url", "events", "study", "status", "last taken"), rows, optional=("study",))


@webhook_app.command("delete")
def delete_webhook(webhook: WebhookArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """Delete a webhook, and the notices that wait for it."""
    with connect(server) as client:
        client.delete_webhook(webhook)
    return print_json({"deleted": str(webhook)}) if json else print(f"Deleted webhook {webhook}.")


@webhook_app.command("test")
def send_test(webhook: WebhookArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """Send a test. `nestor webhook deliveries` shows whether it has arrived."""
    with connect(server) as client:
        sent = client.test_webhook(webhook)
    return print_json(sent.model_dump(mode="json")) if json else print(sent.id)


@webhook_app.command("deliveries")
def list_deliveries(webhook: WebhookArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """List the newest notices of a webhook, sent or waiting."""
    with connect(server) as client:
        found = client.webhook_deliveries(webhook)
    if json:
        return print_json([sent.model_dump(mode="json") for sent in found])
    heads = ("id", "event", "status", "attempts", "answer", "created", "next attempt")
    return print_table(heads, map(_row, found), optional=("next attempt",))


def _row(sent: WebhookDelivery) -> tuple[str, ...]:
    answer = sent.error or ("" if sent.http_status is None else str(sent.http_status))
    created, following = moment(sent.created_at), moment(sent.next_attempt_at)
    return str(sent.id), sent.type, sent.status.value, str(sent.attempts), answer, created, following
