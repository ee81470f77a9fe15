"""The engine's options and the wire's fields are the same, with the same defaults."""

from __future__ import annotations

import dataclasses

import pytest

import nestor_engine as engine
from nestor import schemas
from nestor_engine import config


@pytest.mark.parametrize("cls", config._TAGS, ids=lambda cls: cls.__name__)
def test_every_option_has_its_wire_field_with_the_same_default(cls):
    tag, name = config._TAGS[cls]
    wire = getattr(schemas, cls.__name__)
    fields = {f.name for f in dataclasses.fields(cls)}
    assert set(wire.model_fields) == fields | {tag}
    assert wire().model_dump(mode="json") == config._described(cls())
    assert wire().model_dump()[tag] == name


def test_a_submission_s_defaults_are_the_engine_s():
    submitted = schemas.TrialCreate(problem={"preset": {}}, outer=schemas.RMSprop(steps=7)).model_dump(mode="json")
    described = {name: value for name, value in submitted.items() if name in schemas.CONFIGURATION}
    assert engine.restore(described) == engine.Config(n_steps=7)


def test_a_described_config_is_a_valid_submission():
    chosen = engine.Config(
        n_steps=3,
        inner=engine.SGD(0.2, momentum=0.9, nesterov=True),
        outer=engine.Adam(0.1, clip_norm=1.0, schedule=engine.CosineDecay(100, warmup=5)),
        outer_lr={"l2": 0.5},
        autocast="bfloat16",
        response=engine.Implicit(engine.Hessian(0.1), engine.Neumann(4, alpha=0.5)),
    )
    submitted = schemas.TrialCreate(problem={"preset": {}}, **engine.describe(chosen)).model_dump(mode="json")
    assert engine.restore({k: v for k, v in submitted.items() if k in schemas.CONFIGURATION}) == chosen


def test_a_step_s_record_is_a_valid_step():
    fields = {f.name for f in dataclasses.fields(engine.Step)} - {"state"}
    assert fields == set(schemas.Step.model_fields)


def test_short_spellings_mean_the_same():
    short = schemas.TrialCreate.model_validate(
        {
            "problem": {"preset": {}},
            "response": {"implicit": {"curvature": "gauss_newton", "solver": {"neumann": {"terms": 3}}}},
        }
    )
    assert short.response == schemas.Implicit(curvature=schemas.GaussNewton(), solver=schemas.Neumann(terms=3))
