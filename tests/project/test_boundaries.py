"""What both sides of a boundary must know is declared once; the two lists that cannot be are held together here."""

from __future__ import annotations

from nestor import program_format, schemas
from nestor_engine.hparams import TRANSFORMS


def test_a_program_names_the_transforms_that_the_engine_has():
    assert set(program_format.TRANSFORMS) == set(TRANSFORMS)


def test_a_data_set_has_the_splits_that_the_format_names():
    assert tuple(schemas.DatasetCreate.model_fields) == program_format.SPLITS
