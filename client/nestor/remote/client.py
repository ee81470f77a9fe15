"""The client of a Nestor server: each route is a method that takes and returns `nestor.schemas`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel

from nestor import schemas
from nestor.callbacks import states_of, whole_number
from nestor.entry_points import EntryPoint
from nestor.errors import (
    ArgumentInvalid,
    OptionOutOfRange,
    OptionTypeWrong,
    StudyNotFound,
    TrialNotFound,
    arguments_of,
    called_as,
    shown,
)
from nestor.remote import credentials, event_stream, uploads
from nestor.remote.references import referenced
from nestor.remote.transport import Model, Transport, read
from nestor.schemas import Action, State, WhichStep

if TYPE_CHECKING:
    from nestor.options import Config
    from nestor_engine.problem.entry_points import Trainable
    from nestor_engine.program.export import Program

Item = TypeVar("Item", covariant=True)

STEPS_PER_PAGE = 10_000
MAX_TIMEOUT = 86_400


class _Page(Protocol[Item]):
    @property
    def items(self) -> Iterable[Item]: ...
    @property
    def next_cursor(self) -> str | None: ...


class Client:
    """One user of one server.

    All methods raise `ServerUnreachable` if the server does not respond, and the error that the server reports, a
    `NestorError`. Requests are repeated when the connection fails or the server is busy; none takes effect twice.

    A client can be pickled, and so can its studies and trials. A pickle contains the address but not the token. The
    process that loads it uses the token that it has used before, else NESTOR_TOKEN or the credentials file.

    Args:
        server: its address; by default NESTOR_SERVER, else the one that `nestor up` started last.
        token: by default NESTOR_TOKEN, else the one in the credentials file.
        timeout: seconds to wait for a response.

    Raises:
        NoToken: neither the argument nor the environment nor the credentials file has a token for this server.
        ClientError: the address or the credentials file is malformed.
    """

    ships = True

    @called_as("Client", url="Pass server=….", address="Pass server=…, the address.", api_key="Pass token=….")
    def __init__(self, server: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.server = credentials.find_server(server)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=f"timeout={shown(timeout)}", rule="it must be a number of seconds, above 0")
        if not 0 < timeout < MAX_TIMEOUT:
            raise OptionOutOfRange(option=f"{timeout=}", rule=f"it must be above 0 and below {MAX_TIMEOUT} seconds")
        self._timeout = timeout
        token = credentials.find_token(server, token)
        self._token_name = credentials.fingerprint(token)
        self._connected: Transport | None = Transport(self.server, token, timeout)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_connected": None}

    @property
    def _transport(self) -> Transport:
        """The connections, made at the first use after unpickling: an error there would not reach the user."""
        if self._connected is None:
            self._connected = Transport(self.server, credentials.recall(self.server, self._token_name), self._timeout)
        return self._connected

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. `with Client() as client:` does this at the end of the block."""
        if self._connected is not None:
            self._connected.close()

    def __repr__(self) -> str:
        return f"Client({self.server!r})"

    # --- studies ----------------------------------------------------------------------------------

    def create_study(self, new: schemas.StudyCreate) -> schemas.Study:
        """Create a study, or load the existing one if `new.load_if_exists`.

        Raises:
            StudyExists
            RankingDiffers: the existing study ranks its trials in another way.
        """
        return self._post("/studies", new, schemas.Study)

    def study(self, study_id: UUID) -> schemas.Study:
        """A study by its id, with the counts of its trials and the best value.

        Raises:
            StudyNotFound
        """
        return self._get(f"/studies/{study_id}", schemas.Study)

    def find_study(self, name: str) -> schemas.Study:
        """A study by its name.

        Raises:
            StudyNotFound
        """
        found = self._get("/studies", schemas.StudyPage, name=name).items
        if not found:
            raise StudyNotFound(study=name)
        return found[0]

    def studies(self) -> Iterator[schemas.Study]:
        """All studies of this user, newest first. Pages are requested as the iterator advances."""
        return self._pages(lambda cursor: self._get("/studies", schemas.StudyPage, **cursor))

    def change_study(self, study_id: UUID, patch: schemas.StudyPatch) -> schemas.Study:
        """Change attributes and tags of a study. What other clients set is kept, unless it has the same key.

        Raises:
            StudyNotFound
        """
        return self._patch(f"/studies/{study_id}", patch, schemas.Study)

    def delete_study(self, study_id: UUID) -> None:
        """Delete a study and cancel its unfinished trials.

        Raises:
            StudyNotFound
        """
        self._transport.request("DELETE", f"/studies/{study_id}")

    # --- trials -----------------------------------------------------------------------------------

    def submit(
        self,
        study_id: UUID,
        problem: Trainable | EntryPoint,
        config: Config,
        spec: schemas.TrialCreate,
        *,
        program: Program | None = None,
        watched: bool = False,
        show_progress_bar: bool = True,
    ) -> schemas.Trial:
        """Upload a checked problem and its data, unless a worker builds it, and queue a trial.

        Args:
            config: not used, because `spec` contains it.
            spec: everything except the problem, which is filled in here; that of an entry point is complete.
            program: the export of `problem`, if the caller has it.
            watched: not used, because the server runs a trial whether or not it is watched.
            show_progress_bar: show bars for large uploads.

        Raises:
            StudyNotFound
            ProblemInvalid: the problem cannot be exported.
            ProgramInvalid, DatasetInvalid, TooLarge: the server refuses an upload.
        """
        del config, watched
        if isinstance(problem, EntryPoint):
            return self.create_trial(study_id, spec)
        from nestor_engine import Problem

        if not isinstance(problem, Problem):
            raise ArgumentInvalid(
                owner="Client.submit",
                argument="problem",
                given=shown(problem),
                expected="a nestor.Problem or EntryPoint",
            )
        exported = problem.export() if program is None else program
        blobs: dict[str, uploads.Content] = {"graphs": exported.graphs, "tensors": exported.tensors}
        blobs |= problem.data.save()
        digests: dict[str, Any] = {
            name: self.upload(data, what=f"upload {name}", show_progress_bar=show_progress_bar)
            for name, data in blobs.items()
        }
        uploaded = self.create_program(
            schemas.ProgramCreate(graphs=digests.pop("graphs"), tensors=digests.pop("tensors"))
        )
        dataset = self.create_dataset(schemas.DatasetCreate(**digests | referenced(problem.data.mapped, digests)))
        uploaded_problem = schemas.ProgramProblem(program=uploaded.id, dataset=dataset.id)
        return self.create_trial(study_id, spec.model_copy(update={"problem": uploaded_problem}))

    def create_trial(self, study_id: UUID, spec: schemas.TrialCreate) -> schemas.Trial:
        """Queue a trial of a preset, an uploaded program or an entry point; `submit` uploads a `nestor.Problem` first.

        Raises:
            StudyNotFound, ProgramNotFound, DatasetNotFound
            ValidationFailed: a field of `spec` is wrong.
            Forbidden: a priority above 0 without an admin token.
            EntryPointInvalid: running workers do not have the entry point, or it does not take the params.
        """
        return self._post(f"/studies/{study_id}/trials", spec, schemas.Trial)

    def presets(self) -> schemas.Presets:
        """What workers build by themselves: presets, and the entry points of packages that running workers have."""
        return self._get("/presets", schemas.Presets)

    def trials(self, study_id: UUID, states: Collection[State] | None = None) -> list[schemas.Trial]:
        """The trials of a study, by number: all, or those in one of `states`.

        Raises:
            StudyNotFound
        """
        path, wanted = f"/studies/{study_id}/trials", {}
        if states is not None:
            wanted = {"state": sorted(states_of("Client.trials", states))}
            if not wanted["state"]:
                return []
        return list(self._pages(lambda cursor: self._get(path, schemas.TrialPage, **wanted, **cursor)))

    def find_trial(self, study_id: UUID, number: int) -> schemas.Trial:
        """A trial by its study and its number.

        Raises:
            StudyNotFound, TrialNotFound
        """
        if 0 <= whole_number("number", number) <= schemas.MOST_STEPS:
            found = self._get(f"/studies/{study_id}/trials", schemas.TrialPage, number=number).items
            if found:
                return found[0]
        raise TrialNotFound(trial=str(number))

    def trial(self, trial_id: UUID) -> schemas.Trial:
        """The current record of a trial.

        Raises:
            TrialNotFound
        """
        return self._get(f"/trials/{trial_id}", schemas.Trial)

    def change_trial(self, trial_id: UUID, patch: schemas.TrialPatch) -> schemas.Trial:
        """Change attributes and tags of a trial. What other clients set is kept, unless it has the same key.

        Raises:
            TrialNotFound
        """
        return self._patch(f"/trials/{trial_id}", patch, schemas.Trial)

    def request(self, trial_id: UUID, action: Action, after_step: int | None = None) -> schemas.Trial:
        """Ask for an action. A worker that runs the trial performs it soon, so the returned state may be unchanged.

        Args:
            after_step: of a stop or a prune, the last step that counts: later ones are withdrawn.

        Raises:
            TrialNotFound
            IllegalTransition: the action is not possible in the trial's state.
        """
        end = None if after_step is None else schemas.build(schemas.TrialEnd, {"after_step": after_step})
        return self._post(f"/trials/{trial_id}/{action}", end, schemas.Trial)

    def extend(self, trial_id: UUID, steps: int) -> schemas.Trial:
        """Queue a complete, pruned or paused trial for `steps` more outer steps.

        Raises:
            TrialNotFound
            IllegalTransition: the trial is neither complete nor pruned nor paused.
        """
        return self._post(
            f"/trials/{trial_id}/extend", schemas.build(schemas.TrialExtend, {"steps": steps}), schemas.Trial
        )

    def prioritize(self, trial_id: UUID, priority: int) -> schemas.Trial:
        """Let a trial run before those of lower priority, from -1000 to 1000.

        Raises:
            TrialNotFound
            Forbidden: a priority above 0 without an admin token.
        """
        new = schemas.build(schemas.TrialPriority, {"priority": priority})
        return self._post(f"/trials/{trial_id}/priority", new, schemas.Trial)

    def attempts(self, trial_id: UUID) -> list[schemas.Attempt]:
        """The attempts at a trial, by number: which worker ran it, when, and why each attempt ended.

        Raises:
            TrialNotFound
        """
        return list(self._get(f"/trials/{trial_id}/attempts", schemas.Attempts).items)

    def events(self, trial_id: UUID, after: int = 0) -> Iterator[schemas.Event]:
        """Yield the trial's events after number `after`, each once and in order, until `end`.

        The iterator waits for new events, and reconnects when the connection breaks.

        Raises:
            TrialNotFound
            ServerUnreachable: the server does not respond for ten minutes.
        """
        return event_stream.follow(self._transport, trial_id, after)

    def steps(self, trial_id: UUID, after: int = 0) -> list[schemas.Step]:
        """The recorded steps whose number is above `after`, in order.

        Raises:
            TrialNotFound
        """
        names = tuple(schemas.Step.model_fields)
        found: list[schemas.Step] = []
        while True:
            columns = self._get(
                f"/trials/{trial_id}/steps",
                schemas.StepColumns,
                after=after,
                columns=",".join(names),
                limit=STEPS_PER_PAGE,
            ).columns
            rows = list(zip(*(columns[name] for name in names), strict=True))
            found += [schemas.Step(**dict(zip(names, row, strict=True))) for row in rows]
            if len(rows) < STEPS_PER_PAGE:
                return found
            after = found[-1].number

    def hyperparameters(self, trial_id: UUID) -> schemas.Hyperparameters:
        """Names, shapes and types of the hyperparameters, and the steps that have a snapshot.

        Raises:
            TrialNotFound
        """
        return self._get(f"/trials/{trial_id}/hyperparameters", schemas.Hyperparameters)

    def snapshot(self, trial_id: UUID, step: int | None = None) -> bytes:
        """All hyperparameters at `step`, by default the latest recorded one, as a safetensors file.

        Raises:
            TrialNotFound
            HyperparametersNotFound: that step has no snapshot.
        """
        params = {} if step is None else {"step": step}
        path = f"/trials/{trial_id}/hyperparameters.safetensors"
        return self._transport.request("GET", path, params=params).content

    def checkpoint(self, trial_id: UUID, step: WhichStep = "latest") -> bytes:
        """What is stored of a step, as a safetensors file: a checkpoint, or the weights of the best step.

        Raises:
            TrialNotFound
            CheckpointNotFound: nothing is stored of that step.
        """
        path = f"/trials/{trial_id}/checkpoint.safetensors"
        return self._transport.request("GET", path, params={"step": step}).content

    @arguments_of("detach")
    def detach(self, trial: schemas.Trial) -> str:
        """The message for a user who stops watching an unfinished trial. The trial continues."""
        return (
            f"Detached from trial {trial.number}, which continues at {self.server}. "
            f"Watch it with `nestor watch {trial.id}` or study.trials[{trial.number}].stream(). "
            f"Stop it with `nestor stop {trial.id}`, which keeps the result, or `nestor cancel`."
        )

    def cause(self, trial_id: UUID) -> None:
        """None: the exception that failed the trial is in another process. The trial's `error` describes it."""
        del trial_id

    # --- blobs, programs, data sets ---------------------------------------------------------------

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

    # --- the server -------------------------------------------------------------------------------

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

    # --- requests ---------------------------------------------------------------------------------

    def _get(self, path: str, model: type[Model], **params: Any) -> Model:
        return read(model, self._transport.request("GET", path, params=params))

    def _post(self, path: str, body: BaseModel | None, model: type[Model]) -> Model:
        if body is not None and not isinstance(body, BaseModel):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=shown(body), rule="pass a value of nestor.schemas")
        document = None if body is None else body.model_dump(mode="json")
        return read(model, self._transport.request("POST", path, json=document))

    def _patch(self, path: str, patch: BaseModel, model: type[Model]) -> Model:
        if not isinstance(patch, BaseModel):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=shown(patch), rule="pass a value of nestor.schemas")
        document = patch.model_dump(mode="json", exclude_unset=True)
        return read(model, self._transport.request("PATCH", path, json=document))

    @staticmethod
    def _pages(get: Callable[[dict[str, str]], _Page[Item]]) -> Iterator[Item]:
        """The items of all pages; `get` takes the query parameters that select a page."""
        page = get({})
        yield from page.items
        while page.next_cursor is not None:
            page = get({"cursor": page.next_cursor})
            yield from page.items
