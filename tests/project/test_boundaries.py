"""Server and engine share no code, so this compares what both must know."""

from __future__ import annotations

from nestor_engine.data import splits
from nestor_engine.program.load import FORMAT, FUNCTIONS, MAX_GRAPHS_BYTES
from nestor_server.services.problems import datasets, programs


def test_the_server_accepts_the_programs_that_the_engine_reads():
    assert (programs.FORMAT, programs.MAX_GRAPHS) == (FORMAT, MAX_GRAPHS_BYTES)
    assert set(FUNCTIONS) == programs.GRAPHS


def test_the_server_reserves_the_column_that_the_engine_adds():
    assert datasets.RESERVED == splits.INDEX
