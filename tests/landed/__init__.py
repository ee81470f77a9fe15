"""What earlier versions left behind, which every later version must still open and continue: that of commit 975f0e6,
and for checkpoints of format 3 that of commit 090892f."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from alembic.script import ScriptDirectory

from nestor.options import Config
from nestor_server.database import plain_url
from nestor_server.revisions import alembic_config

if TYPE_CHECKING:
    from nestor import Client

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"  # State.save(), format 2
CHECKPOINTS_FORMAT_3 = HERE / "checkpoints_format_3"  # the same trajectories at the same steps
CONTINUED = HERE / "checkpoints.json"  # name → its config, and what three more steps gave
PROGRAMS = HERE / "programs"  # name → what the client uploaded of it
SHIPPED = HERE / "programs.json"  # name → a config, and the trajectory that it gave
DATABASE = HERE / "database.sql.gz"  # with its schema, at revision 0004
# Its trials by a label, as they were left, and as they ended once they went on; and a token, of that database alone.
LEFT = HERE / "database.json"


def checkpoint_of(name: str, folder: Path = CHECKPOINTS) -> Path:
    return folder / f"{name.replace(',', '').replace(' ', '-')}.safetensors"


def program_of(name: str) -> Path:
    """The directory of its files: `graphs.json`, `tensors.safetensors`, and a file for each split."""
    return PROGRAMS / name.replace(" ", "-")


def config_of(described: dict[str, Any]) -> Config:
    """A configuration as version 975f0e6 described it, read as the migration of its database reads it."""
    scripts = ScriptDirectory.from_config(alembic_config(""))
    revision = scripts.get_revision("0005")
    return Config(**revision.module.upgraded(described, described["outer"]["steps"]))


def restore(url: str) -> None:
    """Fill an empty database with all that was there, as it was: it is not migrated."""
    with psycopg.connect(plain_url(url)) as connection:
        connection.execute(gzip.decompress(DATABASE.read_bytes()))


def recorded(client: Client, trial_id: str) -> dict[str, Any]:
    """A trial as plain data: how it stands, all of its steps, and the hyperparameters that were kept last."""
    from nestor import Trial

    record = client.trial(UUID(trial_id))
    trial, kept = Trial(client, record), client.hyperparameters(record.id).steps
    steps = trial.steps
    names = ("number", "train_loss", "val_loss", "held_out_loss", "test_loss", "hypergradient_norm", "residual")
    return {
        "state": record.state.value,
        "step": record.step,
        "n_steps": record.n_steps,
        "error": record.error and record.error["code"],
        "kept": list(kept),
        "steps": {name: [getattr(step, name) for step in steps] for name in names},
        "hparams": {name: value.flatten().tolist() for name, value in trial.hparams.numpy().items()} if kept else {},
    }


def weights_of(client: Client, trial_id: str) -> dict[str, float]:
    """The square of each tensor's length, of a trained network that has come home."""
    from nestor import Trial
    from tests.landed.problems import Net

    net = Net()
    Trial(client, client.trial(UUID(trial_id))).load_weights(net, step="latest")
    return {name: float(value.double().square().sum()) for name, value in net.state_dict().items()}
