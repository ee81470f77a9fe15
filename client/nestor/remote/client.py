"""A Nestor server, as Python calls it: every route as a method that takes and returns `nestor.schemas`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pydantic import BaseModel

from nestor import schemas
from nestor.errors import StudyNotFound
from nestor.remote import credentials, event_stream, uploads
from nestor.remote.transport import Transport
from nestor.schemas import Action

if TYPE_CHECKING:
    from nestor_engine import Config, Problem
    from nestor_engine.program.export import Program

Model = TypeVar("Model", bound=BaseModel)

STEPS_A_PAGE = 10_000


class Client:
    """One server and one user.

    Args:
        server: its address; by default NESTOR_SERVER, else the one that `nestor up` started last.
        token: by default NESTOR_TOKEN, else the one in the credentials file.
        timeout: seconds to wait for an answer.

    Raises:
        NoToken: no token is known for this server.
    """

    ships = True

    def __init__(self, server: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.server = credentials.find_server(server)
        self._transport = Transport(self.server, credentials.find_token(self.server, token), timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def __repr__(self) -> str:
        return f"Client({self.server!r})"

    # --- studies ----------------------------------------------------------------------------------

    def create_study(self, new: schemas.StudyCreate) -> schemas.Study:
        return self._post("/studies", new, schemas.Study)

    def study(self, study_id: UUID) -> schemas.Study:
        return self._get(f"/studies/{study_id}", schemas.Study)

    def find_study(self, name: str) -> schemas.Study:
        found = self._get("/studies", schemas.StudyPage, name=name).items
        if not found:
            raise StudyNotFound(study=name)
        return found[0]

    def studies(self) -> Iterator[schemas.Study]:
        return self._pages("/studies", schemas.StudyPage)

    def set_user_attrs(self, study_id: UUID, changes: dict[str, Any]) -> schemas.Study:
        patch = schemas.build(schemas.StudyPatch, {"user_attrs": self.study(study_id).user_attrs | changes})
        body = patch.model_dump(mode="json", exclude_unset=True)
        answer = self._transport.request("PATCH", f"/studies/{study_id}", json=body)
        return schemas.Study.model_validate_json(answer.content)

    def delete_study(self, study_id: UUID) -> None:
        self._transport.request("DELETE", f"/studies/{study_id}")

    # --- trials -----------------------------------------------------------------------------------

    def submit(
        self,
        study_id: UUID,
        problem: Problem,
        config: Config,
        spec: schemas.TrialCreate,
        *,
        program: Program | None = None,
        watched: bool = False,
        show_progress_bar: bool = True,
    ) -> schemas.Trial:
        del watched  # the server runs a trial whether or not anyone looks
        del config  # the spec says it all
        exported = problem.export() if program is None else program
        blobs = {"graphs": exported.graphs, "tensors": exported.tensors, **problem.data.save()}
        digests = {
            name: self.upload(data, what=f"upload {name}", show_progress_bar=show_progress_bar)
            for name, data in blobs.items()
        }
        shipped = self.create_program(
            schemas.ProgramCreate(graphs=digests.pop("graphs"), tensors=digests.pop("tensors"))
        )
        dataset = self.create_dataset(schemas.DatasetCreate.model_validate(digests))
        what = schemas.ProgramProblem(program=shipped.id, dataset=dataset.id)
        return self.create_trial(study_id, spec.model_copy(update={"problem": what}))

    def create_trial(self, study_id: UUID, spec: schemas.TrialCreate) -> schemas.Trial:
        """Submit a tuning job; `submit` writes the spec for a `nestor.Problem`."""
        return self._post(f"/studies/{study_id}/trials", spec, schemas.Trial)

    def trials(self, study_id: UUID) -> list[schemas.Trial]:
        return sorted(self._pages(f"/studies/{study_id}/trials", schemas.TrialPage), key=lambda trial: trial.number)

    def trial(self, trial_id: UUID) -> schemas.Trial:
        return self._get(f"/trials/{trial_id}", schemas.Trial)

    def request(self, trial_id: UUID, action: Action) -> schemas.Trial:
        return self._post(f"/trials/{trial_id}/{action}", None, schemas.Trial)

    def extend(self, trial_id: UUID, steps: int) -> schemas.Trial:
        return self._post(
            f"/trials/{trial_id}/extend", schemas.build(schemas.TrialExtend, {"steps": steps}), schemas.Trial
        )

    def prioritize(self, trial_id: UUID, priority: int) -> schemas.Trial:
        new = schemas.build(schemas.TrialPriority, {"priority": priority})
        return self._post(f"/trials/{trial_id}/priority", new, schemas.Trial)

    def attempts(self, trial_id: UUID) -> list[schemas.Attempt]:
        return list(self._get(f"/trials/{trial_id}/attempts", schemas.Attempts).items)

    def events(self, trial_id: UUID, after: int = 0) -> Iterator[schemas.Event]:
        return event_stream.follow(self._transport, trial_id, after)

    def steps(self, trial_id: UUID, after: int = 0) -> list[schemas.Step]:
        names, found = tuple(schemas.Step.model_fields), []
        while True:
            asked = {"after": after, "columns": ",".join(names), "limit": STEPS_A_PAGE}
            columns = self._get(f"/trials/{trial_id}/steps", schemas.StepColumns, **asked).columns
            rows = list(zip(*(columns[name] for name in names), strict=True))
            found += [schemas.Step.model_validate(dict(zip(names, row, strict=True))) for row in rows]
            if len(rows) < STEPS_A_PAGE:
                return found
            after = found[-1].number

    def hyperparameters(self, trial_id: UUID) -> schemas.Hyperparameters:
        return self._get(f"/trials/{trial_id}/hyperparameters", schemas.Hyperparameters)

    def snapshot(self, trial_id: UUID, step: int | None = None) -> bytes:
        chosen = {} if step is None else {"step": step}
        path = f"/trials/{trial_id}/hyperparameters.safetensors"
        return self._transport.request("GET", path, params=chosen).content

    def checkpoint(self, trial_id: UUID) -> bytes:
        return self._transport.request("GET", f"/trials/{trial_id}/checkpoint.safetensors").content

    def detach(self, trial: schemas.Trial) -> str:
        return (
            f"Detached from trial {trial.number}, which goes on at {self.server}. Watch it again: "
            f"`nestor watch {trial.id}`, or study.trials[{trial.number}].stream(). End it: `nestor stop {trial.id}` "
            "(the result is kept) or `nestor cancel`."
        )

    def cause(self, trial_id: UUID) -> None:
        del trial_id  # it happened elsewhere; the trial's `error` has the sentence

    # --- blobs, programs, data sets ---------------------------------------------------------------

    def upload(self, data: bytes, *, what: str = "upload", show_progress_bar: bool = True) -> str:
        """Store `data` unless the server has it already; its digest, "sha256:…"."""
        return uploads.upload(self._transport, data, what=what, show_progress_bar=show_progress_bar)

    def download(self, digest: str) -> bytes:
        return self._transport.request("GET", f"/blobs/{digest}").content

    def create_program(self, new: schemas.ProgramCreate) -> schemas.Program:
        return self._post("/programs", new, schemas.Program)

    def create_dataset(self, new: schemas.DatasetCreate) -> schemas.Dataset:
        return self._post("/datasets", new, schemas.Dataset)

    # --- the server -------------------------------------------------------------------------------

    def me(self) -> schemas.Me:
        return self._get("/me", schemas.Me)

    def version(self) -> schemas.Version:
        return self._get("/version", schemas.Version)

    def create_token(self, new: schemas.TokenCreate) -> schemas.TokenCreated:
        return self._post("/tokens", new, schemas.TokenCreated)

    # --- how --------------------------------------------------------------------------------------

    def _get(self, path: str, model: type[Model], **params: Any) -> Model:
        return model.model_validate_json(self._transport.request("GET", path, params=params).content)

    def _post(self, path: str, body: BaseModel | None, model: type[Model]) -> Model:
        sent = None if body is None else body.model_dump(mode="json")
        return model.model_validate_json(self._transport.request("POST", path, json=sent).content)

    def _pages(self, path: str, model: Any) -> Iterator[Any]:
        cursor = None
        while True:
            page = self._get(path, model, **({} if cursor is None else {"cursor": cursor}))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return
