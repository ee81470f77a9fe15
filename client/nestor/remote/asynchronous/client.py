"""The client of a Nestor server: each route is a method that takes and returns `nestor.schemas`.

Written by `python -m nestor.remote.asynchronous` from nestor.remote.client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nestor import schemas
from nestor.callbacks import choice, expect_flag, states_of, whole_number
from nestor.entry_points import EntryPoint
from nestor.errors import ArgumentInvalid, StudyNotFound, TrialFailed, TrialNumberNotFound, arguments_of, shown
from nestor.lifecycle import numbers_up_to
from nestor.remote.asynchronous import event_stream, uploads
from nestor.remote.asynchronous.administration import AsyncAdministration
from nestor.remote.asynchronous.blobs import AsyncBlobs
from nestor.remote.asynchronous.hyperparameters import AsyncHyperparameters
from nestor.remote.client import filters
from nestor.remote.references import referenced
from nestor.schemas import Action, EventType, LogLevel, SortOrder, State, StudySort, TrialSort

if TYPE_CHECKING:
    from nestor.options import Config
    from nestor_engine.problem.entry_points import Trainable
    from nestor_engine.program.export import Program


class AsyncClient(AsyncBlobs, AsyncHyperparameters, AsyncAdministration):
    """One user of one server, for asyncio: the methods of `Client`, to be awaited.

    Requests can wait at the same time, as in `await asyncio.gather(…)`. A client serves one event loop.

    All methods raise `ServerUnreachable` if the server does not respond, and the error that the server reports, a
    `NestorError`. Requests are repeated when the connection fails or the server is busy; none takes effect twice.

    A client can be pickled. A pickle contains the address but not the token. The
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

    def __repr__(self) -> str:
        return f"AsyncClient({self.server!r})"

    # --- studies ----------------------------------------------------------------------------------

    async def create_study(self, new: schemas.StudyCreate) -> schemas.Study:
        """Create a study, or load the existing one if `new.load_if_exists`.

        Raises:
            StudyExists
            RankingDiffers: the existing study ranks its trials in another way.
        """
        return await self._post("/studies", new, schemas.Study)

    async def study(self, study_id: UUID) -> schemas.Study:
        """A study by its id, with the counts of its trials and the best value.

        Raises:
            StudyNotFound
        """
        return await self._get(f"/studies/{study_id}", schemas.Study)

    async def find_study(self, name: str) -> schemas.Study:
        """A study by its name.

        Raises:
            StudyNotFound
        """
        found = (await self._get("/studies", schemas.StudyPage, name=name)).items
        if not found:
            raise StudyNotFound(study=name)
        return found[0]

    def studies(
        self,
        *,
        name: str | None = None,
        states: Collection[State] | None = None,
        tags: Sequence[str] = (),
        q: str | None = None,
        deleted: bool = False,
        sort: StudySort | str = StudySort.created_at,
        order: SortOrder | str = SortOrder.desc,
    ) -> AsyncIterator[schemas.StudySummary]:
        """The studies of this user, newest first. Pages are requested as the iterator advances.

        Args:
            name: only the study of this name.
            states: only studies that have a trial in one of these states; None: all.
            tags: only studies that have all of these tags.
            q: only studies whose name or note or one of whose tags contains this text, in any case.
            deleted: those that were deleted and can still be restored, instead of the others.
            sort: "created_at", "last_activity_at", "name", "best_value" or "trials", the number of them.
            order: "asc" or "desc". Studies without a value come last in both.
        """
        expect_flag("deleted", deleted)
        wanted = filters("AsyncClient.studies", states, tags, q)
        wanted |= {
            "deleted": deleted,
            "sort": choice("sort", sort, StudySort),
            "order": choice("order", order, SortOrder),
        }
        wanted |= {} if name is None else {"name": name}
        nothing = wanted.get("state") == []
        return self._pages(lambda cursor: self._get("/studies", schemas.StudyPage, **wanted, **cursor), empty=nothing)

    async def change_study(self, study_id: UUID, patch: schemas.StudyPatch) -> schemas.Study:
        """Change ranking, attributes, tags and note of a study. What others set is kept, unless it has the same key.

        Raises:
            StudyNotFound
            RankingDiffers: the study has trials, whose best weights were kept by its metric and direction.
            LossMaximized: it would rank by the highest loss.
        """
        return await self._patch(f"/studies/{study_id}", patch, schemas.Study)

    async def delete_study(self, study_id: UUID) -> None:
        """Delete a study and cancel its unfinished trials. For some days, `restore_study` takes that back.

        Raises:
            StudyNotFound
        """
        await self._transport.request("DELETE", f"/studies/{study_id}")

    async def restore_study(self, study_id: UUID, new_name: str | None = None) -> schemas.Study:
        """Take back the deletion of a study, which `studies(deleted=True)` lists. Canceled trials stay canceled.

        Args:
            new_name: by default the one that it had.

        Raises:
            StudyNotFound: it was purged.
            StudyNameTaken: another study has the name by now.
        """
        how = schemas.build(schemas.StudyRestore, {"name": new_name})
        return await self._post(f"/studies/{study_id}/restore", how, schemas.Study)

    async def copy_study(self, study_id: UUID, new_name: str) -> schemas.Study:
        """Copy a study with its attributes, tags and note, and its finished trials with all that they recorded.

        Raises:
            StudyNotFound
            StudyNameTaken: another study has the name.
            StudyTooLarge: its finished trials have recorded too much.
        """
        return await self._post(
            f"/studies/{study_id}/copy", schemas.build(schemas.StudyCopy, {"name": new_name}), schemas.Study
        )

    # --- trials -----------------------------------------------------------------------------------

    async def submit(
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
            return await self.create_trial(study_id, spec)
        from nestor_engine import Problem

        if not isinstance(problem, Problem):
            raise ArgumentInvalid(
                owner="AsyncClient.submit",
                argument="problem",
                given=shown(problem),
                expected="a nestor.Problem or EntryPoint",
            )
        exported = await asyncio.to_thread(problem.export) if program is None else program
        blobs: dict[str, uploads.Content] = {"graphs": exported.graphs, "tensors": exported.tensors}
        blobs |= await asyncio.to_thread(problem.data.save)
        digests: dict[str, Any] = {
            name: await self.upload(data, what=f"upload {name}", show_progress_bar=show_progress_bar)
            for name, data in blobs.items()
        }
        uploaded = await self.create_program(
            schemas.ProgramCreate(graphs=digests.pop("graphs"), tensors=digests.pop("tensors"))
        )
        splits = digests | await asyncio.to_thread(referenced, problem.data.mapped, digests)
        dataset = await self.create_dataset(schemas.DatasetCreate(**splits))
        uploaded_problem = schemas.ProgramProblem(program=uploaded.id, dataset=dataset.id)
        return await self.create_trial(study_id, spec.model_copy(update={"problem": uploaded_problem}))

    async def create_trial(self, study_id: UUID, spec: schemas.TrialCreate) -> schemas.Trial:
        """Queue a trial of a preset, an uploaded program or an entry point; `submit` uploads a `nestor.Problem` first.

        Raises:
            StudyNotFound, ProgramNotFound, DatasetNotFound
            ValidationFailed: a field of `spec` is wrong.
            Forbidden: a priority above 0 without an admin token.
            EntryPointInvalid: running workers do not have the entry point, or it does not take the params.
        """
        return await self._post(f"/studies/{study_id}/trials", spec, schemas.Trial)

    async def trials(self, study_id: UUID, states: Collection[State] | None = None) -> list[schemas.Trial]:
        """The trials of a study, by number: all, or those in one of `states`.

        Raises:
            StudyNotFound
            ArgumentInvalid: there is no such state.
        """
        chosen = states_of("AsyncClient.trials", states)
        return [item async for item in self.find_trials(study_id, states=chosen, order=SortOrder.asc)]

    def find_trials(
        self,
        study_id: UUID,
        *,
        states: Collection[State] | None = None,
        tags: Sequence[str] = (),
        q: str | None = None,
        sort: TrialSort | str = TrialSort.number,
        order: SortOrder | str = SortOrder.desc,
    ) -> AsyncIterator[schemas.TrialSummary]:
        """Trials of a study, newest first. Pages are requested as the iterator advances.

        Args:
            states: only trials in one of them; None: all.
            tags: only trials that have all of these tags.
            q: only trials whose note or one of whose tags contains this text, in any case.
            sort: "number", "state", "step", "best_value" or "seconds".
            order: "asc" or "desc". Trials without a value come last in both.

        Raises:
            StudyNotFound
        """
        path = f"/studies/{study_id}/trials"
        wanted = filters("AsyncClient.find_trials", states, tags, q)
        wanted |= {"sort": choice("sort", sort, TrialSort), "order": choice("order", order, SortOrder)}
        nothing = wanted.get("state") == []
        return self._pages(lambda cursor: self._get(path, schemas.TrialPage, **wanted, **cursor), empty=nothing)

    async def find_trial(self, study_id: UUID, number: int) -> schemas.Trial:
        """A trial by its number in a study.

        Raises:
            StudyNotFound
            TrialNumberNotFound: the study has no trial of that number; the message says which it has.
        """
        path = f"/studies/{study_id}/trials"
        if 0 <= whole_number("number", number) <= schemas.MOST_STEPS:
            for trial in (await self._get(path, schemas.TrialPage, number=number)).items:
                return trial
        study = await self.study(study_id)
        n_trials = sum(study.trial_counts.values())
        raise TrialNumberNotFound(trial=f"{study.name}/{number}", numbers=numbers_up_to(n_trials))

    async def trial(self, trial_id: UUID) -> schemas.Trial:
        """The current record of a trial.

        Raises:
            TrialNotFound
        """
        return await self._get(f"/trials/{trial_id}", schemas.Trial)

    async def change_trial(self, trial_id: UUID, patch: schemas.TrialPatch) -> schemas.Trial:
        """Change attributes, tags and note of a trial. What other clients set is kept, unless it has the same key.

        Raises:
            TrialNotFound
        """
        return await self._patch(f"/trials/{trial_id}", patch, schemas.Trial)

    async def request(self, trial_id: UUID, action: Action, after_step: int | None = None) -> schemas.Trial:
        """Ask for an action. A worker that runs the trial performs it soon, so the returned state may be unchanged.

        Args:
            after_step: of a stop or a prune, the last step that counts: later ones are withdrawn.

        Raises:
            TrialNotFound
            IllegalTransition: the action is not possible in the trial's state.
        """
        end = None if after_step is None else schemas.build(schemas.TrialEnd, {"after_step": after_step})
        return await self._post(f"/trials/{trial_id}/{action}", end, schemas.Trial)

    async def extend(self, trial_id: UUID, steps: int) -> schemas.Trial:
        """Queue a complete, pruned or paused trial for `steps` more outer steps.

        Raises:
            TrialNotFound
            IllegalTransition: the trial is neither complete nor pruned nor paused.
        """
        return await self._post(
            f"/trials/{trial_id}/extend", schemas.build(schemas.TrialExtend, {"steps": steps}), schemas.Trial
        )

    async def prioritize(self, trial_id: UUID, priority: int) -> schemas.Trial:
        """Let a trial run before those of lower priority, from -1000 to 1000.

        Raises:
            TrialNotFound
            Forbidden: a priority above 0 without an admin token.
        """
        new = schemas.build(schemas.TrialPriority, {"priority": priority})
        return await self._post(f"/trials/{trial_id}/priority", new, schemas.Trial)

    async def confirm(self, trial_id: UUID, asked: schemas.Confirm, *, watched: bool = False) -> schemas.Confirmation:
        """Train from the first initialization under a trial's best hyperparameters, in trials of the same study.

        Trainings that run or are complete already are not repeated.

        Args:
            watched: not used, because the server runs a trial whether or not it is watched.

        Raises:
            TrialNotFound
            NotFinished: the trial may find a better step.
            NothingTuned, NothingToConfirm: the trial has no best hyperparameters of its own.
        """
        del watched
        return await self._post(f"/trials/{trial_id}/confirm", asked, schemas.Confirmation)

    async def confirmation(self, trial_id: UUID) -> schemas.Confirmation:
        """A trial's own numbers at its best step, beside those of the trainings that confirm it.

        Raises:
            TrialNotFound
            NothingToConfirm: no step of the trial was evaluated.
        """
        return await self._get(f"/trials/{trial_id}/confirmation", schemas.Confirmation)

    async def truth(self, trial_id: UUID, asked: schemas.Retrain, *, watched: bool = False) -> schemas.TruthReport:
        """Train again under changes of a trial's best hyperparameters, in trials of the same study.

        Trainings that run or are complete already are not repeated.

        Args:
            watched: not used, because the server runs a trial whether or not it is watched.

        Raises:
            TrialNotFound
            NotFinished: the trial may find a better step.
            NothingTuned, NothingToConfirm: the trial has no best hyperparameters of its own.
        """
        del watched
        return await self._post(f"/trials/{trial_id}/truth", asked, schemas.TruthReport)

    async def truth_report(self, trial_id: UUID, size: float = 0.1) -> schemas.TruthReport:
        """What a trial's hypergradient predicts, beside what trainings under changes of this size have found so far.

        Raises:
            TrialNotFound
            NothingToConfirm: no step of the trial was evaluated.
        """
        return await self._get(f"/trials/{trial_id}/truth", schemas.TruthReport, size=size)

    async def options(self, trial_id: UUID) -> schemas.TrialOptions:
        """The options of a trial beside their defaults, those first that differ, and what it tunes in short.

        Raises:
            TrialNotFound
        """
        return await self._get(f"/trials/{trial_id}/options", schemas.TrialOptions)

    async def attempts(self, trial_id: UUID) -> list[schemas.Attempt]:
        """The attempts at a trial, by number: which worker ran it, when, and why each attempt ended.

        Raises:
            TrialNotFound
        """
        path = f"/trials/{trial_id}/attempts"
        return [item async for item in self._pages(lambda cursor: self._get(path, schemas.Attempts, **cursor))]

    def events(self, trial_id: UUID, after: int = 0) -> AsyncIterator[schemas.Event]:
        """Yield the trial's events after number `after`, each once and in order, until `end`.

        The iterator waits for new events, and reconnects when the connection breaks.

        Raises:
            TrialNotFound
            ServerUnreachable: the server does not respond for ten minutes.
        """
        return event_stream.follow(self._transport, trial_id, after)

    async def stream(self, trial_id: UUID, after: int = 0) -> AsyncIterator[schemas.Step]:
        """Yield each step with a number above `after`, once and in order, as it is taken.

        Raises:
            TrialNotFound
            TrialFailed: the trial failed; raised after its last step.
        """
        async for event in self.events(trial_id):
            if event.type is EventType.step and event.data["number"] > after:
                step = schemas.Step.model_validate(event.data)
                after = step.number
                yield step
        trial = await self.trial(trial_id)
        if trial.state is State.failed:
            raise TrialFailed(number=trial.number, reason=(trial.error or {}).get("detail", "no reason was recorded"))

    async def logs(
        self, trial_id: UUID, after: int = 0, level: LogLevel = LogLevel.info
    ) -> AsyncIterator[schemas.LogLine]:
        """Yield the lines of the trial's log so far that are at least as urgent as `level`.

        Args:
            after: the `seq` of a line or an event; only lines behind it are read.

        Raises:
            TrialNotFound
            ChoiceUnknown: there is no such level.
        """
        lowest = choice("level", level, LogLevel)
        while True:
            page = await self._get(f"/trials/{trial_id}/logs", schemas.LogPage, after=after, level=lowest)
            for item in page.items:
                yield item
            if page.next_after is None:
                return
            after = page.next_after

    async def steps(self, trial_id: UUID, after: int = 0) -> list[schemas.Step]:
        """The recorded steps whose number is above `after`, in order.

        Raises:
            TrialNotFound
        """
        names = tuple(schemas.Step.model_fields)
        found: list[schemas.Step] = []
        while True:
            path = f"/trials/{trial_id}/steps"
            page = await self._get(path, schemas.StepColumns, after=after, columns=",".join(names))
            for row in zip(*(page.columns[name] for name in names), strict=True):
                # Null also stands for a field that a record of an earlier version does not have.
                cells = {name: cell for name, cell in zip(names, row, strict=True) if cell is not None}
                found.append(schemas.Step.model_validate(cells))
            if page.next_after is None:
                return found
            after = page.next_after

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
