"""The outer loop: warm-started bilevel training as a generator, so that the caller decides what to do with a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nestor import options
from nestor_engine.autodiff.trace_cache import TraceCache
from nestor_engine.config import Config
from nestor_engine.data.folds import Partition
from nestor_engine.data.splits import Data
from nestor_engine.distributed import ALONE, Group
from nestor_engine.objective import Bilevel
from nestor_engine.training.evaluator import Evaluator
from nestor_engine.training.stages import OuterStepStages
from nestor_engine.training.state import State
from nestor_engine.training.step import Step


def optimize(
    bilevel: Bilevel,
    data: Data,
    config: options.Config,
    state: State | None = None,
    group: Group = ALONE,
    trace_cache: TraceCache | None = None,
    ending: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Tune hyperparameters inside one training [1, Algorithm 2]; yield after every outer step.

    Each outer step continues from the weights of the step before.

    Args:
        bilevel: the problem, on the device to use.
        data: on the same device.
        config: the options of the training.
        state: continue from here. It may be on any device, and is not written to. By default a new training starts.
        group: the processes that compute this together, each with the same arguments; by default this process alone.
        trace_cache: traces of the same problem, used from the first step on; new traces are added.
        ending: whether the user ends the training after the present step, which is then evaluated; asked in each step.

    Raises:
        ConfigInvalid: an option does not support the number of processes.
        Diverged: a loss or the hypergradient is not finite.
        StateInvalid: the state belongs to another problem.

    [1] Lorraine, Vicol and Duvenaud (2020), Optimizing millions of hyperparameters by implicit differentiation.
    """
    config = Config.of(config)
    config.check_devices(group.size)
    if state is None:
        state = State.initial(bilevel, config.inner, config.outer, config.seed)
    stages = OuterStepStages(bilevel, data, config, state.seed, group, trace_cache or TraceCache())
    state = state.expect(bilevel).to(stages.device)

    while not config.has_ended(state.step, state.steps_since_best):
        state = stages.activate_fold(state)
        state, inner = stages.train_weights(state)
        state, hypergradient = stages.take_hypergradient(state, inner)
        state, update = stages.update_hparams(state, hypergradient)
        ends = group.any([ending()])[0]
        step = stages.evaluate_and_record(state, inner, hypergradient, update, ends=ends)
        state = step.state
        yield step
        if ends:
            return


def evaluated(bilevel: Bilevel, data: Data, config: options.Config, step: Step) -> Step:
    """The last step of a training that its user ended between two steps, with the evaluation that it may lack.

    Args:
        bilevel, data, config: as for `optimize`.

    Raises:
        Diverged: the loss on all validation examples is not finite.
    """
    if step.value is not None:
        return step
    partition = Partition(data, config.folds, config.early_stopping, step.state.seed)
    found = Evaluator(bilevel, partition, data.test).on_validation(step.state)
    return step.model_copy(update={"value": found.pop("loss"), "metrics": found})
