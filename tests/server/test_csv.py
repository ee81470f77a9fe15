"""CSV files have the rows of the client's data frames, are quoted, and are written piece by piece."""

from __future__ import annotations

import csv
import io
import json
from typing import Any
from uuid import UUID

import pandas as pd
import pytest

import nestor
from nestor.results.tables import write_csv
from nestor_server.models import Study, Trial
from nestor_server.services.records import exports
from tests.server.conftest import Run, enlarge, problem

NASTY = ["plain", "a,b", 'say "x"', "two\nlines", "a\r\nb", "ä€", "", " spaced ", "true", "5"]
FORMULAS = ["=1+1", "+1", "-x", "@SUM(A1)", "\tx", "\rx"]


def read(http, path: str, **params: Any) -> list[dict[str, str]]:
    response = http.get(path, params=params)
    assert response.headers["Content-Type"].startswith("text/csv")
    assert 'filename="tr' in response.headers["Content-Disposition"]
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


@pytest.fixture
def client(server, http):
    token = http.headers["Authorization"].removeprefix("Bearer ")
    with nestor.Client(server.url, token) as client:
        yield client


@pytest.fixture
def various(server, study, submit) -> str:
    """The study, with trials that differ in options, attributes, states and metrics."""
    for n, attrs in enumerate(({"a": 1}, {"b": "x"}, {"a": None, "c": {"d": [1]}}, {}, {"a": True})):
        kind = {"optimizer": "adam"} if n % 2 else {"optimizer": "sgd", "momentum": 0.5}
        run = Run(server, UUID(submit(inner=kind, seed=n, user_attrs=attrs, tags=["t"] * (n == 3))["id"]))
        run.record(n)
        if n > 2:
            run.finish()
    submit(note="queued")
    return study


def expected(value: Any) -> str:
    """A value of a data frame as the file has it."""
    if isinstance(value, pd.Timedelta):
        return str(value.total_seconds())
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    if isinstance(value, list | dict | tuple | bool):
        return json.dumps(value)
    return "" if value is None or pd.isna(value) else str(value)


@pytest.mark.parametrize("config", [False, True])
@pytest.mark.parametrize("metrics", [False, True])
def test_trials_are_those_of_the_data_frame(http, client, various, config, metrics):
    frame = nestor.load_study("study", server=client).trials_dataframe(config=config, metrics=metrics).astype(object)
    found = read(http, f"/studies/{various}/trials.csv", config=config, metrics=metrics)
    assert [*found[0]] == [*frame.columns]
    for row, (_, one) in zip(found, frame.iterrows(), strict=True):
        for name in frame.columns:
            value = expected(one[name])
            assert row[name] == value or float(row[name]) == float(value), name


def test_steps_are_those_of_the_export(http, client, run):
    run.record(450, held_out=0.5)
    text = io.StringIO(newline="")
    write_csv(client.steps(run.id), text)
    response = http.get(f"{run.path}/steps.csv")
    assert response.text == text.getvalue()
    assert len(response.text.splitlines()) == 451


def test_text_is_quoted_and_no_formula_runs(http, study, submit):
    for text in (*NASTY, *FORMULAS):
        submit(user_attrs={"text": text, text or "empty": 1})
    found = read(http, f"/studies/{study}/trials.csv")
    texts = [row["user_attrs_text"] for row in found]
    assert texts == [*NASTY, *(f"'{text}" for text in FORMULAS)]
    for text in (*NASTY, *FORMULAS):
        assert f"user_attrs_{text or 'empty'}" in found[0]


def test_an_empty_list_has_its_heading(http, study, submit):
    assert http.get(f"/studies/{study}/trials.csv").text.startswith("number,state,step,n_steps,")
    assert http.get(f"/trials/{submit()['id']}/steps.csv").text.startswith("number,train_loss,val_loss,")


@pytest.mark.parametrize(("rows", "nbytes", "sizes"), [(200, 400_000, [2, 2, 2, 2]), (3, 10, [3, 3, 2])])
def test_it_is_read_in_pieces_of_bounded_rows_and_bytes(server, study, submit, monkeypatch, rows, nbytes, sizes):
    for n in range(8):
        enlarge(server, Trial, submit()["id"], {"a": f"{n}" * nbytes})
    monkeypatch.setattr(exports, "ROWS", rows)
    found, after = [], None
    with server.sessions() as session:
        owner = session.get_one(Study, UUID(study)).owner_id
        while after is not None or not found:
            piece, after = exports.trials(session, owner, UUID(study), after, metrics=True)
            found.append([trial.number for trial, _ in piece])
    assert [len(piece) for piece in found] == sizes
    assert [number for piece in found for number in piece] == [*range(8)]


def test_what_is_not_ones_own_is_not_found(stranger, http, study, run):
    problem(stranger.get(f"/studies/{study}/trials.csv"), 404, "study-not-found")
    problem(stranger.get(f"{run.path}/steps.csv"), 404, "trial-not-found")
    problem(stranger.get(f"/trials/{study}/steps.csv"), 404, "trial-not-found")
