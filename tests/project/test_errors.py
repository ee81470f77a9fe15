"""Errors have different codes, are listed on one page, and never echo more of an input than a line."""

from __future__ import annotations

import ast
import json
import string
import subprocess
import sys
from pathlib import Path

import pytest

import nestor_server.embedded.errors
from nestor import errors
from nestor.errors import NestorError
from nestor.errors.__main__ import page

ROOT = Path(__file__).parents[2]
PACKAGES = ("client", "server", "worker")
HUGE = "x" * 10_000_000
# These say nothing that a program could tell from another sentence of theirs.
CATEGORIES = {"NestorError", "InvalidInput", "ProblemInvalid", "ConfigInvalid", "Conflict", "ClientError", "TrialError"}
ALLOWED = ("server/nestor_server/http/middleware.py",)  # an exception that nobody foresaw


def _all(cls: type[NestorError] = NestorError) -> list[type[NestorError]]:
    return [cls, *(kind for sub in cls.__subclasses__() for kind in _all(sub))]


def _fields(template: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(template) if field}


def test_every_error_of_every_package_has_a_code_of_its_own_and_says_when_it_occurs():
    assert nestor_server.embedded.errors.StackError in _all()
    codes = [cls.code() for cls in _all()]
    assert sorted(set(codes)) == sorted(codes)
    assert [cls for cls in _all() if not cls.__doc__ and cls.__module__.startswith("nestor.errors")] == []
    assert all(cls.status in (0, 401, 403, 404, 405, 408, 409, 412, 413, 422, 429, 500, 503) for cls in _all())


def test_the_reference_page_is_that_of_the_classes():
    written = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert written == page(), "run the command in its first line"
    assert all(f"### {cls.code()}\n" in written for cls in _all())


@pytest.mark.parametrize("cls", _all(), ids=lambda cls: cls.code())
def test_an_error_crosses_the_wire_as_the_class_that_was_raised(cls: type[NestorError]):
    context = dict.fromkeys(_fields(cls.message + cls.remedy), 3)
    raised = cls(**context)
    document = json.loads(json.dumps(raised.problem("id"), allow_nan=False))
    received = NestorError.from_problem(document)
    assert type(received) is cls
    assert (str(received), received.context) == (str(raised), context)
    assert (document["code"], document["status"], document["retryable"]) == (cls.code(), cls.status, cls.retryable)


@pytest.mark.parametrize("cls", _all(), ids=lambda cls: cls.code())
def test_what_a_user_gave_is_echoed_in_short(cls: type[NestorError]):
    template = cls.message + cls.remedy
    numbers = {field for _, field, spec, _ in string.Formatter().parse(template) if field and spec}
    context = {field: 2 if field in numbers else HUGE for field in _fields(template)}
    document = cls(**context | {"others": [HUGE] * 1000, "nested": {"input": HUGE, HUGE: 1}}).problem()
    many_lines = issubclass(cls, errors.CheckFailed | nestor_server.embedded.errors.ChildFailed)
    most = 25_000 if many_lines else 6_000
    assert len(document["detail"]) < most
    assert len(json.dumps(document)) < 8_500 + 2 * most


def test_numbers_that_json_cannot_write_and_characters_that_cannot_be_encoded_do_not_break_an_answer():
    error = errors.InvalidInput(reason="\ud800", value=float("nan"), large=10**4000, other=object(), error=ValueError())
    json.dumps(error.problem(), allow_nan=False, ensure_ascii=False).encode()


def test_lists_and_shapes_are_written_as_sentences_do():
    assert "the columns are 'a', 'b'." in str(errors.StepColumnUnknown(column="c", columns=["a", "b"]))
    lengths = errors.DataLengthsDiffer(split="val", lengths={"x": 3, "y": "a scalar"})
    assert "their lengths are x: 3, y: a scalar." in str(lengths)
    assert "returned shape (3, 1) for" in str(errors.LossNotPerExample(shape=(3, 1), batch=3))


def test_a_value_whose_description_fails_is_shown_all_the_same():
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    assert errors.shown(Broken()) == "<Broken>"
    assert errors.shown("line\n" * 100) == repr("line\n" * 100)[:79] + "…"


def test_no_sentence_is_raised_under_the_code_of_a_category():
    raised = {
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (name := getattr(node.func, "id", None)) in CATEGORIES
    }
    assert {one for one in raised if not one.startswith(ALLOWED)} == set()


def test_every_error_is_raised_or_has_kinds_that_are():
    named: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                    named.add(node.id)
                elif isinstance(node, ast.Attribute):
                    named.add(node.attr)
    assert [cls.__name__ for cls in _all() if cls.__name__ not in named] == []


def test_errors_need_neither_pydantic_nor_httpx_nor_torch():
    light = "import sys, nestor.errors\nprint(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "httpx", "torch", "numpy"} & set(loaded)
