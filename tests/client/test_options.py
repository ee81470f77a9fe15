"""Every option is declared once: what users write, what crosses the wire, and the reference follow from it."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import nestor
from nestor import errors, options, schemas
from nestor.errors import ConfigInvalid, NestorError
from nestor.options.reference import reference

ROOT = Path(__file__).parents[2]
ALL = list(options.OPTIONS.values())
RANGES = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"}


def python(code: str, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- what follows from a declaration --------------------------------------------------------------


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_option_comes_back_from_json_as_it_was(cls: type[options.Option]):
    for family in cls.families():
        adapter = TypeAdapter(family)
        written = adapter.dump_python(cls(), mode="json")
        assert written[cls.tag_key] == cls.tag
        assert adapter.validate_python(written) == adapter.validate_json(adapter.dump_json(cls())) == cls()
        short = {cls.tag: {name: value for name, value in written.items() if name != cls.tag_key}}
        assert adapter.validate_python(cls.tag) == adapter.validate_python(short) == cls()


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_the_wire_s_schema_says_what_each_field_means_and_asks_for_the_tag(cls: type[options.Option]):
    schema = schemas.TrialCreate.model_json_schema()["$defs"][cls.__name__]
    assert schema["description"]
    assert all(field["description"] for field in schema["properties"].values())
    assert (cls.tag_key in schema.get("required", [])) == bool(cls.families())
    assert schema["properties"][cls.tag_key]["const"] == cls.tag


def numbers(schema: Any) -> list[dict[str, Any]]:
    """The parts of a JSON Schema that are numbers."""
    if isinstance(schema, list):
        return [one for part in schema for one in numbers(part)]
    if not isinstance(schema, dict):
        return []
    return [schema] * (schema.get("type") in ("integer", "number")) + numbers(list(schema.values()))


def test_the_wire_s_schema_has_a_range_for_every_number():
    free = {"init"}  # the logarithm of a decay may be any number
    schema = schemas.TrialCreate.model_json_schema()
    definitions = {"TrialCreate": schema, **schema["$defs"]}
    for name, definition in definitions.items():
        for field, described in definition["properties"].items():
            if field not in free:
                assert all(RANGES & number.keys() for number in numbers(described)), (name, field)


def test_the_json_schema_s_ranges_are_those_that_are_checked():
    schema = schemas.TrialCreate.model_json_schema()["$defs"]
    tried = 0
    for cls in ALL:
        for field, described in schema[cls.__name__]["properties"].items():
            for key, wrong in (("minimum", -1), ("exclusiveMinimum", 0), ("maximum", 1), ("exclusiveMaximum", 0)):
                if key in described:
                    with pytest.raises(ConfigInvalid, match=rf"{cls.__name__}\({field}="):
                        cls(**{field: described[key] + wrong})
                    tried += 1
    assert tried > 50


def test_a_submission_s_defaults_are_the_configuration_s():
    submitted = schemas.TrialCreate.model_validate({"problem": {"preset": {}}, "n_steps": 7})
    config = nestor.Config(n_steps=7)
    assert {name: getattr(submitted, name) for name in nestor.Config.model_fields} == dict(config)
    assert nestor.Config(**config.model_dump(mode="json")) == config


def test_the_reference_page_is_that_of_the_declarations():
    assert (ROOT / "docs" / "options.md").read_text() == reference(), "python -m nestor.options.reference"


# --- without torch --------------------------------------------------------------------------------


def test_a_method_can_be_written_down_without_torch():
    code = """
import sys
sys.modules["torch"] = None
import nestor
response = nestor.Implicit(nestor.KFAC(), nestor.Neumann(3))
print(nestor.Config(n_steps=3, response=response, folds=nestor.Folds()).response)
"""
    kfac = "KFAC(damping=0.03, decay=0.95, fisher='sampled')"
    assert python(code) == f"Implicit(curvature={kfac}, solver=Neumann(terms=3, alpha='auto'))"


def test_every_public_option_is_a_name_of_nestor():
    for cls in ALL:
        assert (getattr(nestor, cls.__name__, None) is cls) == cls.is_public == (cls.__name__ in nestor.__all__)


# --- mistakes -------------------------------------------------------------------------------------

untyped: Any = nestor  # for what a type checker would refuse
MISTAKES = {
    "too many": (lambda: untyped.Neumann(1, 2.0, 3), "takes at most 2 values by position"),
    "twice": (lambda: untyped.Neumann(1, terms=2), "terms is given twice"),
    "unknown": (lambda: untyped.Neumann(term=2), r"Neumann\(term=2\): there is no such option"),
    "a text": (lambda: untyped.Neumann("3"), r"Neumann\(terms='3'\): it must be a whole number"),
    "a truth": (lambda: nestor.Neumann(True), r"Neumann\(terms=True\): it must be a whole number"),
    "not a number": (lambda: nestor.Adam(float("nan")), r"Adam\(lr=nan\): it must be a finite number, above 0"),
    "another part": (lambda: untyped.Implicit(nestor.Neumann()), "pass a curvature, such as GaussNewton"),
    "an unknown word": (lambda: untyped.KFAC(fisher="true"), "fisher='true'.: it must be 'sampled', 'exact' or"),
    "an unknown tag": (lambda: untyped.Implicit(solver="newton"), "it must be one of 'identity', 'neumann'"),
    "nested": (
        lambda: untyped.Implicit(solver={"neumann": {"terms": -1}}),
        r"Implicit\(solver.terms=-1\): it must",
    ),
    "no momentum": (lambda: nestor.SGD(nesterov=True), "nesterov=True needs momentum: pass momentum=0.9"),
    "nested, no momentum": (
        lambda: untyped.Config(n_steps=1, inner={"optimizer": "sgd", "nesterov": True}),
        "momentum",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence_of_nestor_s(make, sentence):
    with pytest.raises(ConfigInvalid, match=sentence) as caught:
        make()
    assert "pydantic" not in str(caught.value)


CLASSES = {
    "a number": (lambda: untyped.Neumann(-1), errors.OptionOutOfRange),
    "not finite": (lambda: untyped.Adam(float("inf")), errors.OptionOutOfRange),
    "a type": (lambda: untyped.Neumann("3"), errors.OptionTypeWrong),
    "a part": (lambda: untyped.Implicit(untyped.Neumann()), errors.OptionTypeWrong),
    "no dictionary": (lambda: untyped.Config(n_steps=1, outer_lr=0.1), errors.OptionTypeWrong),
    "a word": (lambda: untyped.KFAC(fisher="true"), errors.ChoiceUnknown),
    "a tag": (lambda: untyped.Implicit(solver="newton"), errors.ChoiceUnknown),
    "a name": (lambda: untyped.Neumann(term=2), errors.OptionUnknown),
    "a former name": (lambda: untyped.EarlyStopping(share=0.1), errors.OptionUnknown),
    "nothing": (lambda: untyped.Config(), errors.OptionMissing),
    "twice": (lambda: untyped.Neumann(1, terms=2), errors.OptionGivenTwice),
    "too many": (lambda: untyped.Neumann(1, 2.0, 3), errors.TooManyArguments),
    "no momentum": (lambda: untyped.SGD(nesterov=True), errors.NesterovWithoutMomentum),
    "nested, no momentum": (MISTAKES["nested, no momentum"][0], errors.NesterovWithoutMomentum),
    "too far back": (
        lambda: untyped.Config(n_steps=1, inner_steps=3, response=untyped.Unrolled(4)),
        errors.UnrollTooLong,
    ),
    "several": (lambda: untyped.Neumann(terms=-1, alpha=-1.0), errors.ConfigInvalid),
}


@pytest.mark.parametrize(("make", "cls"), CLASSES.values(), ids=CLASSES.keys())
def test_a_mistake_has_a_class_of_its_own(make, cls):
    with pytest.raises(ConfigInvalid) as caught:
        make()
    assert type(caught.value) is cls
    assert type(NestorError.from_problem(caught.value.problem())) is cls


def test_several_mistakes_are_listed_with_their_codes():
    with pytest.raises(ConfigInvalid, match=r"Neumann\(terms=-1\): .* Neumann\(alpha=-1.0\): ") as caught:
        nestor.Neumann(terms=-1, alpha=-1.0)
    listed = [(one["field"], one["code"]) for one in caught.value.problem()["errors"]]
    assert listed == [("terms", "option-out-of-range"), ("alpha", "option-out-of-range")]
    with pytest.raises(errors.SchemaInvalid) as refused:
        schemas.build(schemas.StudyCreate, {"names": "x"})
    assert [one["code"] for one in refused.value.problem()["errors"]] == ["option-missing", "option-unknown"]


def test_numbers_of_other_libraries_are_numbers():
    import numpy as np
    import torch

    assert untyped.Neumann(np.int64(3)) == untyped.Neumann(torch.tensor(3)) == nestor.Neumann(3)
    assert untyped.Adam(np.float32(0.5)) == untyped.Adam(torch.tensor(0.5)) == nestor.Adam(0.5)


# --- one more option ------------------------------------------------------------------------------


@functools.cache
def code() -> dict[str, str]:
    """Each file of the client and the engine, without texts and comments, in which options are only advised."""
    files = [path for part in ("client", "worker") for path in (ROOT / part).rglob("*.py")]
    texts = re.compile(r'""".*?"""|"[^"\n]*"|#[^\n]*', re.DOTALL)
    return {str(path.relative_to(ROOT)): texts.sub("", path.read_text()) for path in files}


@pytest.mark.parametrize("cls", [*options.Solver.members.values()], ids=lambda cls: cls.__name__)
def test_a_solver_is_named_where_it_is_declared_and_where_it_is_computed_and_nowhere_else(cls):
    named = {path for path, text in code().items() if re.search(rf"\b{cls.__name__}\b", text)}
    if cls is nestor.WarmStarted:  # which is another option's default
        named.remove("client/nestor/options/responses.py")
    declared, computed = sorted(named)
    assert declared == "client/nestor/options/solvers.py"
    assert computed.startswith("worker/nestor_engine/solvers/")


DECLARED = '''
"""Declares one more solver."""
from __future__ import annotations
from typing import Annotated
from nestor.options.base import Positive, about, option
from nestor.options.solvers import ColdSolver


@option
class ScaledIdentity(ColdSolver):
    """A multiple of the right-hand side."""

    factor: Annotated[Positive, about("the multiple")] = 0.5
'''
COMPUTED = '''
"""Computes it."""
from __future__ import annotations
from one_more_declared import ScaledIdentity as Declared
from nestor_engine.solvers.solution import Outcome, Solution
from nestor_engine.solvers.solver import StatelessSolver


class ScaledIdentity(Declared, StatelessSolver):
    """A multiple of the right-hand side."""

    def solve(self, operator, b, state, x0=None):
        return Solution(self.factor * b, Outcome.truncated, 1.0), state
'''
USED = """
import one_more_declared, one_more_computed
import torch
import nestor, nestor_engine
from nestor import schemas
from nestor.options.reference import reference

response = {"implicit": {"solver": {"scaled_identity": {"factor": 2}}}}
spec = {"problem": {"preset": {}}, "n_steps": 2, "response": response}
submitted = schemas.TrialCreate.model_validate(spec)
assert submitted.response == nestor.Implicit(solver=nestor.ScaledIdentity(2.0)), submitted.response
assert "ScaledIdentity" in nestor.__all__
assert "the multiple" in str(schemas.TrialCreate.model_json_schema()["$defs"]["ScaledIdentity"])
assert "### ScaledIdentity" in reference()
try:
    nestor.ScaledIdentity(-1)
except nestor.errors.ConfigInvalid as error:
    print(error)

torch.manual_seed(0)
model = torch.nn.Linear(2, 2)
loss = lambda outputs, batch: torch.nn.functional.cross_entropy(outputs, batch["y"])
data = torch.randn(8, 2), torch.arange(8) % 2
problem = nestor.Problem(model, nestor.hparams.L2(model), loss, loss, train=data, val=data)
trial = nestor.create_study().optimize(problem, 2, response=submitted.response, show_progress_bar=False)
print(trial.state.value, trial.last_step.outcome)
"""


def test_one_more_solver_is_its_declaration_and_its_file(tmp_path: Path):
    (tmp_path / "one_more_declared.py").write_text(DECLARED)
    (tmp_path / "one_more_computed.py").write_text(COMPUTED)
    printed = python(USED, cwd=tmp_path).splitlines()
    assert printed == ["ScaledIdentity(factor=-1): it must be above 0.", "complete truncated"]
