"""The arguments that many commands take: the server, the form of the output, studies and trials by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from nestor.errors import StudyGivenAsTrial, StudyNotFound

if TYPE_CHECKING:
    from nestor.remote.client import Client
    from nestor.schemas import Study as StudyRecord
    from nestor.schemas import Trial as TrialRecord

COMPLETION_SECONDS = 1.0  # a shell waits for the completions
COMPLETED_TRIALS = 50  # of each study, the newest


@dataclass(frozen=True)
class TrialName:
    """A trial as a user names it: by its id, or by its study and its number."""

    id: UUID | None = None
    study: str = ""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.study}/{self.number}" if self.id is None else str(self.id)


def parse_trial(text: str) -> TrialName:
    """An id, or STUDY/NUMBER. The name of a study may contain slashes: the last one separates."""
    try:
        return TrialName(id=UUID(text))
    except ValueError:
        pass
    study, _, number = text.rpartition("/")
    if not (study and number.isascii() and number.isdecimal()):
        raise typer.BadParameter(f"{text!r} does not name a trial. Write STUDY/NUMBER, such as digits/3, or its id.")
    return TrialName(study=study, number=int(number))


# --- on the server --------------------------------------------------------------------------------


def connect(server: str | None) -> Client:
    """A client of the server that --server or the environment names."""
    from nestor.remote.client import Client

    return Client(server)


def trial_of(client: Client, name: TrialName) -> TrialRecord:
    """The trial of that name.

    Raises:
        TrialNotFound, StudyNotFound
        StudyGivenAsTrial: the whole name is that of a study, such as "digits/3" of one with a slash in its name.
    """
    if name.id is not None:
        return client.trial(name.id)
    try:
        study = client.find_study(name.study)
    except StudyNotFound:
        try:
            client.find_study(str(name))
        except StudyNotFound:
            pass
        else:
            raise StudyGivenAsTrial(study=str(name), trial=f"{name}/0") from None
        raise
    return client.find_trial(study.id, name.number)


def trial_id_of(client: Client, name: TrialName) -> UUID:
    """The id of the trial of that name; of an id, that id, without a request.

    Raises:
        TrialNotFound, StudyNotFound, StudyGivenAsTrial: as `trial_of`.
    """
    return name.id or trial_of(client, name).id


# --- completion -----------------------------------------------------------------------------------


def complete_study(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of studies that begin with `incomplete`."""
    return [study.name for study in _newest_studies(ctx) if study.name.startswith(incomplete)]


def complete_trial(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of trials, such as digits/3, that begin with `incomplete`."""
    found: list[str] = []
    for study in _newest_studies(ctx):
        names = (f"{study.name}/{number}" for number in range(sum(study.trial_counts.values())))
        found += [name for name in names if name.startswith(incomplete)][-COMPLETED_TRIALS:]
    return found


def _newest_studies(ctx: typer.Context) -> tuple[StudyRecord, ...]:
    """The newest studies; nothing after any error, because a message would disturb the line that is being typed."""
    try:
        from nestor.remote import credentials
        from nestor.remote.transport import Transport, read
        from nestor.schemas import StudyPage

        given = ctx.params.get("server")
        transport = Transport(credentials.find_server(given), credentials.find_token(given), COMPLETION_SECONDS)
        return read(StudyPage, transport.request("GET", "/studies", retry=False)).items
    except Exception:
        return ()


# --- annotations ----------------------------------------------------------------------------------

ServerOption = Annotated[
    str | None,
    typer.Option("--server", help="Address. Default: NESTOR_SERVER, else the server whose token was saved last."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="One JSON document per line instead of text.")]
StudyArgument = Annotated[str, typer.Argument(help="The study's name.", metavar="STUDY", autocompletion=complete_study)]
TrialArgument = Annotated[
    TrialName,
    typer.Argument(
        help="STUDY/NUMBER, such as digits/3, or the trial's id.",
        metavar="TRIAL",
        parser=parse_trial,
        autocompletion=complete_trial,
    ),
]
