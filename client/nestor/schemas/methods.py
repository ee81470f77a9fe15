"""How to tune: the engine's configuration, as nestor_engine.config describes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nestor.schemas.base import Count, NonNegative, Positive, Schema, Short, Tagged


class ScheduleBase(Schema):
    warmup: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # updates over which the rate rises linearly


class Warmup(ScheduleBase):
    kind: Literal["warmup"] = "warmup"


class StepDecay(ScheduleBase):
    kind: Literal["step_decay"] = "step_decay"
    every: Count = 1000
    gamma: Positive = 0.1


class LinearDecay(ScheduleBase):
    kind: Literal["linear_decay"] = "linear_decay"
    steps: Count = 1000
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


class CosineDecay(ScheduleBase):
    kind: Literal["cosine_decay"] = "cosine_decay"
    steps: Count = 1000
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


Schedule = Annotated[Warmup | StepDecay | LinearDecay | CosineDecay, Tagged, Short]


class OptimizerBase(Schema):
    schedule: Schedule | None = None  # a factor on the learning rate, by the number of the update
    clip_norm: Positive | None = None  # gradients longer than this, over all tensors, are shortened to it
    steps: Count | None = None  # inner: steps between two outer steps; outer: outer steps in all
    batch_size: Count | None = None  # inner: training examples; outer: validation examples. None: engine's default


class SGD(OptimizerBase):
    optimizer: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0


class Adam(OptimizerBase):
    optimizer: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


class AdamW(OptimizerBase):
    optimizer: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01


class RMSprop(OptimizerBase):
    optimizer: Literal["rmsprop"] = "rmsprop"
    lr: Positive = 1e-2
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    eps: Positive = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: NonNegative = 0.0


Optimizer = Annotated[SGD | Adam | AdamW | RMSprop, Field(discriminator="optimizer")]


class Hessian(Schema):
    kind: Literal["hessian"] = "hessian"
    damping: NonNegative = 0.0


class GaussNewton(Schema):
    kind: Literal["gauss_newton"] = "gauss_newton"
    damping: NonNegative = 0.03


class EmpiricalFisher(Schema):
    kind: Literal["empirical_fisher"] = "empirical_fisher"
    damping: NonNegative = 0.03
    per: Literal["batch", "example"] = "batch"


class KFAC(Schema):
    kind: Literal["kfac"] = "kfac"
    damping: NonNegative = 0.03
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.95  # of the factors' running averages
    fisher: Literal["sampled", "exact", "empirical"] = "sampled"


Curvature = Annotated[Hessian | GaussNewton | EmpiricalFisher | KFAC, Tagged, Short]


class Identity(Schema):
    kind: Literal["identity"] = "identity"


class Neumann(Schema):
    kind: Literal["neumann"] = "neumann"
    terms: Annotated[int, Field(ge=0, le=10_000)] = 2
    alpha: Positive | Literal["auto"] = "auto"


class ConjugateGradient(Schema):
    kind: Literal["conjugate_gradient"] = "conjugate_gradient"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 10
    damping: NonNegative = 0.03  # where the curvature has none of its own
    rtol: NonNegative = 1e-6


class NystromSketch(Schema):
    kind: Literal["nystrom_sketch"] = "nystrom_sketch"
    rank: Annotated[int, Field(ge=1, le=10_000)] = 50
    refresh: Count = 10  # outer steps between two sketches


class AdamDiagonal(Schema):
    kind: Literal["adam_diagonal"] = "adam_diagonal"


Preconditioner = Annotated[NystromSketch | KFAC | AdamDiagonal, Tagged, Short]


class PreconditionedCG(Schema):
    kind: Literal["preconditioned_cg"] = "preconditioned_cg"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 4
    preconditioner: Preconditioner = NystromSketch()
    damping: NonNegative = 0.03  # where the curvature has none of its own
    rtol: NonNegative = 1e-6


class Richardson(Schema):
    kind: Literal["richardson"] = "richardson"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    preconditioner: Preconditioner = NystromSketch(rank=20, refresh=20)


class Direct(Schema):
    kind: Literal["direct"] = "direct"


class Nystrom(Schema):
    kind: Literal["nystrom"] = "nystrom"
    rank: Annotated[int, Field(ge=1, le=10_000)] = 20
    rho: Positive = 0.01


Cold = Identity | Neumann | ConjugateGradient | PreconditionedCG | Richardson | Direct | Nystrom


class WarmStarted(Schema):
    kind: Literal["warm_started"] = "warm_started"
    solver: Annotated[Cold, Tagged, Short] = Neumann()


Solver = Annotated[Cold | WarmStarted, Tagged, Short]


class Implicit(Schema):
    kind: Literal["implicit"] = "implicit"
    curvature: Curvature = GaussNewton()
    solver: Solver = WarmStarted()


class Unrolled(Schema):
    kind: Literal["unrolled"] = "unrolled"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 5


class Hypernetwork(Schema):
    kind: Literal["hypernetwork"] = "hypernetwork"
    rank: Annotated[int, Field(ge=1, le=10_000)] = 8
    scale: Positive = 0.1  # of the perturbations, in units of the hyperparameters as they are optimised
    steps: Annotated[int, Field(ge=1, le=10_000)] = 5
    lr: Annotated[float, Field(gt=0, lt=2)] = 1.0  # relative to 1 / the curvature's norm
    damping: NonNegative = 0.03


class DirectOnly(Schema):
    kind: Literal["direct_only"] = "direct_only"


Response = Annotated[Implicit | Unrolled | Hypernetwork | DirectOnly, Tagged, Short]


class Folds(Schema):
    kind: Literal["folds"] = "folds"
    count: Annotated[int, Field(ge=2, le=1000)] = 5
    every: Count = 1  # outer steps until the next fold's turn


class EarlyStopping(Schema):
    kind: Literal["early_stopping"] = "early_stopping"
    patience: Count = 20  # outer steps without a new lowest loss
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the validation examples that are held out
    least_steps: Annotated[int, Field(ge=0)] = 0  # outer steps before which it does not end
