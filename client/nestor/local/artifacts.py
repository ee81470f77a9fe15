"""What a trial in this process holds besides its records: hyperparameters of some steps, and weights of two."""

# pyright: reportUnknownMemberType=false
# (torch does not type the entries of Tensor.tolist)

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from nestor import lifecycle
from nestor.errors import CheckpointNotFound, EntriesNotRecorded, HyperparametersNotFound, HyperparameterUnknown
from nestor.local import summaries
from nestor.local.journal import Journal
from nestor.local.snapshot_store import SnapshotStore
from nestor.results.entries import course, course_steps, flat_indices, top_entries
from nestor.schemas import (
    Distribution,
    EntryValues,
    EventType,
    Form,
    HyperparameterInfo,
    Hyperparameters,
    HyperparameterSummary,
    Order,
    TopEntries,
    WarmStart,
    WhichStep,
)

if TYPE_CHECKING:
    from torch import Tensor

    import nestor_engine


class Artifacts:
    """Snapshots of the hyperparameters, the state after the last step, and the result of the best step.

    Attributes:
        last: the last step, with the state after it.
    """

    def __init__(self, bilevel: nestor_engine.Bilevel, journal: Journal) -> None:
        self.last: nestor_engine.Step | None = None
        self._best: nestor_engine.State | None = None
        self._bilevel, self._journal, self._lock = bilevel, journal, journal.lock
        self._snapshots = SnapshotStore()
        self._distributions: dict[int, dict[str, Distribution]] = {}
        self._with_distributions = lifecycle.count_with_distributions(value.shape for value in bilevel.hparams.values())
        self._reported = set[int]()  # the steps whose snapshots were reported although none was due

    def copy(self, journal: Journal) -> Artifacts:
        """The same artifacts of another trial."""
        with self._lock:
            other = Artifacts(self._bilevel, journal)
            other.last, other._best, other._reported = self.last, self._best, set(self._reported)
            other._distributions = dict(self._distributions)
            other._snapshots.essential = self._snapshots.essential  # before the disk can be full
            for step in sorted(self._snapshots):
                if (found := self._snapshots.get(step)) is not None:
                    other._snapshots[step] = found
        return other

    # --- kept while the trial trains --------------------------------------------------------------

    def keep_initial(self) -> None:
        """Keep and report the initial hyperparameters."""
        self._snapshots[0] = dict(self._bilevel.hparams)
        self._distribute(0, self._bilevel.hparams)
        self._report(0)

    def keep(self, step: nestor_engine.Step, *, is_best: bool) -> None:
        """Keep what the newest step has. Drop snapshots that are kept no longer: memory takes each at once."""
        number, record, every = step.number, self._journal.record, self._interval
        best = number if is_best else record.best_step
        # The last two were kept for a reason that may not hold any more.
        for old in (*lifecycle.evicted_steps(number, every), record.step, record.best_step):
            if old is not None and old != best and not lifecycle.is_retained(old, number, every):
                self._snapshots.discard(old)
        self._snapshots.essential = frozenset({0, best or 0})
        self._snapshots[number] = step.state.hparams  # the engine replaces tensors and never writes into them
        self.last = step
        if number % lifecycle.distribution_interval(number, self._with_distributions) == 0:
            self._distribute(number, step.state.hparams)
        if is_best:
            self._best = step.state.result()

    def report_due(self, step: int) -> None:
        """Report the snapshot of a step if one is due there."""
        if self._is_due(step):
            self._report(step)

    def news(self) -> list[str]:
        """As that of the snapshot store: what the user should know, once."""
        return self._snapshots.news()

    def report_last(self) -> None:
        """Report the snapshots of the best and of the last step, where an attempt ends."""
        record = self._journal.record
        if self.last is not None and self.last.number not in self._distributions:
            self._distribute(self.last.number, self.last.state.hparams)
        for step in sorted({record.best_step or 0, record.step} - self._reported):
            if not self._is_due(step):
                self._reported.add(step)
                self._report(step)

    def forget(self) -> None:
        """Give up the snapshots of a deleted trial, and their files."""
        with self._lock:
            self._snapshots.clear()

    def _distribute(self, step: int, hparams: dict[str, Tensor]) -> None:
        """Keep the distributions of a step, and drop those that are kept no longer."""
        if self._with_distributions:
            from nestor_engine.hparams.distributions import distributions

            interval = lifecycle.distribution_interval(step, self._with_distributions)
            kept = {n: found for n, found in self._distributions.items() if n % interval == 0 and n < step}
            self._distributions = kept | {step: distributions(hparams)}

    def _report(self, step: int) -> None:
        self._journal.append(EventType.snapshot, {"step": step})

    def _is_due(self, step: int) -> bool:
        return lifecycle.is_due(step, self._journal.record.n_steps, self._interval)

    @property
    def _interval(self) -> int:
        nbytes = sum(value.nbytes for value in self._bilevel.hparams.values())
        return lifecycle.snapshot_interval(nbytes, self._journal.record.n_steps)

    # --- read -------------------------------------------------------------------------------------

    @property
    def state(self) -> nestor_engine.State | None:
        """The state after the last step."""
        return None if self.last is None else self.last.state

    def reached(self, start: WarmStart) -> tuple[WarmStart, nestor_engine.State | dict[str, Tensor]]:
        """What another trial may start from, and `start` with the step that it means.

        Raises:
            CheckpointNotFound, HyperparametersNotFound: this is not kept.
        """
        with self._lock:
            asked, record = start.step, self._journal.record
            if start.weights:
                found = self._kept("latest" if asked is None else asked)
                step = None if found is None else found.step
            else:
                step = record.best_step if asked == "best" else asked
                step = max(self._snapshots, default=0) if asked is None else step
                found = None if step is None else self._snapshots.get(step)
            kept = self._kept_steps() if start.weights else set(self._snapshots)
        if found is None:
            missing = CheckpointNotFound if start.weights else HyperparametersNotFound
            raise missing(trial=str(record.id), what=lifecycle.missing_step(asked, record.best_step, kept))
        return start.model_copy(update={"step": step}), found

    def hyperparameters(self) -> Hyperparameters:
        """Each hyperparameter's shape, and the steps that have a snapshot; nothing before the first attempt."""
        with self._lock:
            steps = tuple(sorted(self._snapshots))
            return Hyperparameters(items=self._infos(), steps=steps, seq=self._journal.record.seq)

    def _infos(self) -> tuple[HyperparameterInfo, ...]:
        return tuple(HyperparameterInfo.model_validate(item) for item in self._bilevel.described())

    def top(self, name: str, by: Order, k: int, step: int | None) -> TopEntries:
        """The first entries of a hyperparameter by one order.

        Raises:
            HyperparameterUnknown, HyperparametersNotFound, EntriesNotRecorded
        """
        from nestor_engine.hparams.extremes import extreme_entries

        info = self._info(name)
        with self._lock:
            at, found = self._snapshot(step)
            gradients = self.last.state.previous if self.last is not None and self.last.number == at else {}
        value, start, gradient = found[name].cpu(), self._bilevel.hparams[name].cpu(), gradients.get(name)
        if by is Order.gradient and gradient is None:
            reason = "in this process, hypergradients are kept of the last step alone"
            raise EntriesNotRecorded(name=name, by=by.value, step=at, reason=reason)
        if gradient is not None:
            gradient = gradient.cpu()
        index = extreme_entries(value, start, gradient, k)

        def numbers(tensor: Tensor) -> list[float]:
            return cast("list[float]", tensor.detach().flatten()[index].tolist())

        return top_entries(
            info,
            step=at,
            by=by,
            k=k,
            index=[int(i) for i in index],
            values=numbers(value),
            starts=numbers(start),
            gradients=[None] * len(index) if gradient is None else numbers(gradient),
        )

    def entry_values(self, name: str, index: str, form: Form) -> EntryValues:
        """The course of some entries. Raises HyperparameterUnknown, EntryUnknown, TooManyEntries."""
        info = self._info(name)
        chosen, by_step = flat_indices(info, index), dict[int, list[float]]()
        with self._lock:
            known = sorted(self._snapshots)
        for step in course_steps(known, len(chosen)):
            with self._lock:  # for one step at a time, so that training goes on meanwhile
                found = self._snapshots.get(step)
            if found is not None:  # else its file is gone, or it was thinned out
                by_step[step] = cast("list[float]", found[name].detach().flatten()[chosen].tolist())
        return course(info, form=form, steps=[*by_step], index=chosen, by_step=[*by_step.values()])

    def _info(self, name: str) -> HyperparameterInfo:
        infos = self._infos()
        for info in infos:
            if info.name == name:
                return info
        names = [info.name for info in infos]
        raise HyperparameterUnknown(trial=str(self._journal.record.id), name=name, hparams=names)

    def _snapshot(self, step: int | None) -> tuple[int, dict[str, Tensor]]:
        at = max(self._snapshots, default=0) if step is None else step
        found = self._snapshots.get(at)
        if found is None:
            what = lifecycle.missing_step(step, self._journal.record.best_step, self._snapshots)
            raise HyperparametersNotFound(trial=str(self._journal.record.id), what=what)
        return at, found

    def summary(self, name: str, max_points: int) -> HyperparameterSummary:
        """The course of one hyperparameter. Raises HyperparameterUnknown."""
        info = self._info(name)
        with self._lock:
            steps, kept, seq = list(self._journal.steps), dict(self._distributions), self._journal.record.seq
        return summaries.summary(info, steps, kept, max_points=max_points, seq=seq)

    def snapshot(self, step: int | None) -> bytes:
        """The hyperparameters at `step`, or the newest ones, as safetensors. Raises HyperparametersNotFound."""
        import safetensors.torch

        with self._lock:
            _, found = self._snapshot(step)
        # Cloned: tensors that share memory cannot be saved.
        tensors = {name: value.detach().cpu().clone() for name, value in found.items()}
        transforms = {name: self._bilevel.transforms.get(name, "identity") for name in self._bilevel.hparams}
        return safetensors.torch.save(tensors, lifecycle.snapshot_metadata(transforms))

    def checkpoint(self, step: WhichStep) -> bytes:
        """The state after the last step, or the weights of the best step. Raises CheckpointNotFound."""
        with self._lock:
            found, record, kept = self._kept(step), self._journal.record, self._kept_steps()
        if found is None:
            raise CheckpointNotFound(trial=str(record.id), what=lifecycle.missing_step(step, record.best_step, kept))
        return found.save()

    def _kept_steps(self) -> set[int]:
        return {state.step for state in (self.state, self._best) if state is not None}

    def _kept(self, step: WhichStep) -> nestor_engine.State | None:
        if step in ("best", "latest"):
            return self._best if step == "best" else self.state
        return next((state for state in (self.state, self._best) if state is not None and state.step == step), None)
