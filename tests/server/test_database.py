"""The tables and their migrations agree, in both directions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from nestor.options import EarlyStopping
from nestor.options.base import MAX_STEPS
from nestor.schemas import TrialSpec
from nestor_server import revisions
from nestor_server.models import Base
from nestor_server.settings import Settings
from testbed.server import new_database


@pytest.fixture
def url(services):
    with new_database(services) as url:
        yield url


@pytest.fixture
def engine(url):
    engine = create_engine(url)
    yield engine
    engine.dispose()


def differences(engine) -> list:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, Base.metadata)


def test_migrations_create_the_tables_that_the_models_describe(url, engine):
    revisions.migrate(url)
    assert differences(engine) == []


def test_down_and_up_again_ends_where_it_began(url, engine):
    revisions.migrate(url)
    command.downgrade(revisions.alembic_config(url), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    revisions.migrate(url)
    assert differences(engine) == []


# Existing databases were created by these files. A revision is added here when it is released,
# and what comes after it goes into a new one: the second was once written into the first, and the next
# start on a database of the day before failed.
RELEASED = {
    "0001": "17a148cd3a4493d2eba7c28d6225854232707982887fca7603ecf2548b214ec6",
    "0002": "cf6487f5e3a86bd6be55e1ee36e211bb21916ce6b263b753c5f0ff28934b0b36",
    "0003": "1b76f29c87da5780721b01998541fceb453cea5e82f471fc6dec3e0521e55a2a",
    "0004": "b0e8cbc6f4043505cc506c28e36d3a1d6fc4ee770941938cf961c2d3f30f7486",
    "0005": "f68e07c0056b65f00aabe4e2cdfe81cc79ee723e1907ab9b35affcf001c69d48",
    "0006": "9944d7ad46bdb508e3b09b73c0e15d28f501e4680ef342a4a31dd94744bf7d29",
    "0007": "993ea6b5f44e264ab58681fae5d1b15d1409458bdc80f4ff04c325e1c7db3443",
    "0008": "b9e1766222bf7daa806055aff622637f90940bd4b5ed4f3e27a6ca8f3e6f1513",
    "0009": "6516ea1dbbe3a2e89b9fc1e45273de45ba9b8e4361a7354a0337e9181b8e3d30",
    "0010": "c2afffb520ec47cd3542a597208b241df08cbaf3b7be3cceb974ee0eb33328d1",
    "0011": "d74f81a1d713fbdfb8789b466a6168c0e84a776ffcc8b63269498e4ed3f59d3c",
    "0012": "d8ad90a0ee897098687b5a38fcb61f59d7e978175c8680cd7c7ca2bc8c595e50",
    "0013": "e218d1a290af6d0dfd385e585ed13b7db6f2df32eabafc155cf0ed429046b282",
    "0014": "de1e7b825732bd941e9dc8045d0fd53647b6390ab867daaada0ecbd918e9e8f2",
    "0015": "845fe3e47f2fcd1ef64cd13a026cc90bb5e254f7280270954ef26c262f76156c",
    "0016": "7f21e1cad829b13c6b607bb7758d19006c59873b6b42d29ece61b268bb0f0e2a",
    "0017": "bfa18ad9086f9a2b97c430a37be4dc10c31e1826857d7d342f075c303dcc9602",
    "0018": "b1aa23dcfc4a0cd443301b09324cf9ed6463220a42e8646c102fcb7e1b81f09e",
    "0019": "a7e93edfaae45ad195dbc5444efa45a69d432eaeb56fc6afad5ba6b95441af95",
    "0020": "6415a3f484237ccea7ae1c74826f16fd482996015e9bd50fec19ab22171adcca",
}


@pytest.mark.parametrize(("number", "digest"), RELEASED.items())
def test_a_released_revision_never_changes(number, digest):
    (file,) = (revisions.migrations() / "versions").glob(f"{number}_*.py")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest


def test_a_database_of_the_first_revision_is_brought_up_to_date_with_its_trials(url, engine):
    revisions.migrate(url, "0001")
    (trial,) = insert_trials(engine, {"spec": "{}", "n_steps": 1, "state": "queued"})
    revisions.migrate(url)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT id, batches, preemptions, start_blob_id FROM trials")).one()
    assert tuple(kept) == (trial, 0, 0, None)


def test_a_trial_that_is_asked_to_yield_is_still_asked_after_the_word_for_it_has_changed(url, engine):
    revisions.migrate(url, "0004")
    running = {"spec": "{}", "n_steps": 1, "state": "running"}
    insert_trials(engine, running | {"desired": "make_way"}, running | {"desired": "pause"})
    revisions.migrate(url, "0006")
    assert trials_column(engine, "desired") == ["preempt", "pause"]
    command.downgrade(revisions.alembic_config(url), "0005")
    assert trials_column(engine, "desired") == ["make_way", "pause"]


def test_a_submission_is_read_in_the_words_of_this_version_and_written_back_in_those_before(url, engine):
    revisions.migrate(url, "0004")
    before: dict = {
        "problem": {
            "preset": {"dataset": "digits", "hyperparameters": [{"kind": "l1", "per": "tensor", "init": -4.0}]}
        },
        "inner": {"optimizer": "sgd", "lr": 0.5, "steps": 3, "batch_size": 64},
        "outer": {"optimizer": "adam", "steps": 7, "batch_size": 50},
        "stop_early": {"kind": "early_stopping", "patience": 2, "share": 0.3, "least_steps": 10**12},
        "warmup_steps": 10**12,
    }
    sparse: dict = {"problem": before["problem"], "outer": {"optimizer": "rmsprop", "steps": None}, "stop_early": None}
    insert_trials(engine, *({"spec": json.dumps(spec), "n_steps": 9, "state": "queued"} for spec in (before, sparse)))
    revisions.migrate(url)
    given, filled = (TrialSpec.model_validate(spec) for spec in trials_column(engine, "spec"))
    assert (given.n_steps, given.inner_steps, given.batch_size, given.val_batch_size) == (7, 3, 64, 50)
    assert given.early_stopping == EarlyStopping(patience=2, fraction=0.3, min_steps=MAX_STEPS)
    assert given.warmup_steps == MAX_STEPS
    assert (filled.n_steps, filled.inner_steps, filled.batch_size, filled.val_batch_size) == (9, 5, 128, 1000)
    command.downgrade(revisions.alembic_config(url), "0004")
    limited = {"stop_early": before["stop_early"] | {"least_steps": MAX_STEPS}, "warmup_steps": MAX_STEPS}
    assert trials_column(engine, "spec")[0] == before | limited


def test_steps_of_before_keep_the_number_by_which_they_were_compared(url, engine):
    revisions.migrate(url, "0007")
    (trial,) = insert_trials(engine, {"spec": "{}", "n_steps": 2, "state": "complete"})
    before: list[dict] = [{"val_loss": 0.1, "held_out_loss": None}, {"val_loss": 0.3, "held_out_loss": 1e-300}]
    with engine.begin() as connection:
        for number, data in enumerate(before, start=1):
            insert(connection, "steps", trial_id=trial, number=number, seq=number, data=json.dumps(data))
    steps = text("SELECT data FROM steps ORDER BY number")
    revisions.migrate(url, "0008")
    with engine.connect() as connection:
        found = list(connection.execute(steps).scalars())
    added = {"metrics": {}, "val_examples": None}
    assert found == [{**before[0], **added, "value": 0.1}, {**before[1], **added, "value": 1e-300}]
    command.downgrade(revisions.alembic_config(url), "0007")
    with engine.connect() as connection:
        assert list(connection.execute(steps).scalars()) == before


def test_a_pruned_trial_is_a_complete_one_to_the_version_before(url, engine):
    revisions.migrate(url, "0008")
    trial = {"spec": "{}", "n_steps": 1}
    insert_trials(engine, trial | {"state": "running"}, trial | {"state": "complete"})
    revisions.migrate(url, "0009")
    for column, value in (("tags", []), ("revision", 0), ("seconds", 0.0), ("ends_after", None)):
        assert trials_column(engine, column) == [value] * 2
    with engine.begin() as connection:
        connection.execute(text("UPDATE trials SET desired = 'prune', ends_after = 3, ends_as = 'prune'"))
        connection.execute(text("UPDATE trials SET state = 'pruned' WHERE state = 'complete'"))
    command.downgrade(revisions.alembic_config(url), "0008")
    assert trials_column(engine, "state") == ["running", "complete"]
    assert trials_column(engine, "desired") == ["stop", "stop"]


def insert_trials(engine, *rows: dict) -> list[UUID]:
    """Trials of one study, whose numbers are their places in the result."""
    user, study, trials = uuid4(), uuid4(), [uuid4() for _ in rows]
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO users (id, name) VALUES (:id, 'u')"), {"id": user})
        insert(connection, "studies", id=study, owner_id=user, name="s", direction="minimize")
        for number, (trial, row) in enumerate(zip(trials, rows, strict=True)):
            insert(connection, "trials", id=trial, study_id=study, number=number, **row)
    return trials


def trials_column(engine, name: str) -> list:
    with engine.connect() as connection:
        return list(connection.execute(text(f"SELECT {name} FROM trials ORDER BY number")).scalars())


def insert(connection, table: str, **values) -> None:
    """A row with a value of the right type for every required column."""
    for column in inspect(connection).get_columns(table):
        if not column["nullable"] and column["default"] is None and column["name"] not in values:
            values[column["name"]] = {"JSONB": "{}", "TEXT": "run", "ARRAY": "{}"}.get(type(column["type"]).__name__, 0)
    names = ", ".join(values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(':' + n for n in values)})"), values)


def test_servers_that_start_together_migrate_one_after_the_other(url, engine):
    migrate = [sys.executable, "-c", f"from nestor_server import revisions; revisions.migrate({url!r})"]
    started = [subprocess.Popen(migrate, stderr=subprocess.PIPE) for _ in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    assert differences(engine) == []


def test_chunks_are_stored_uncompressed(url, engine):
    revisions.migrate(url)
    with engine.connect() as connection:
        storage = connection.scalar(
            text("SELECT attstorage FROM pg_attribute WHERE attrelid = 'blob_chunks'::regclass AND attname = 'data'")
        )
    assert storage in ("e", b"e")


def test_an_address_of_another_database_is_refused_and_the_usual_ones_are_understood():
    for url in ("postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"):
        assert Settings(database_url=url).database_url == "postgresql+psycopg://u:p@h/d"
    for url in ("mysql://h/d", "postgresql+asyncpg://h/d", "h"):
        with pytest.raises(ValueError, match="postgresql://"):
            Settings(database_url=url)
