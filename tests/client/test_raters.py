"""The rater of a trial on a server, as a file for use without Nestor."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import nestor
from nestor import Client
from nestor.errors import RaterNotFound
from nestor.hparams import LossReweighting
from testbed.server import Server
from tests.client.conftest import QUICK
from tests.client.problems import ridge
from tests.client.shell import Shell


def squared(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (outputs - batch["y"]).square().flatten()


def test_a_rater_is_exported_and_loaded_by_its_class(server: Server, token: str, worker: object, tmp_path: Path):
    torch.manual_seed(0)
    x = torch.randn(20, 2)
    y = x.sum(1, keepdim=True)
    rating = LossReweighting(nn.Linear(2, 1), reads="x", name="rating")
    problem = nestor.Problem(nn.Linear(2, 1), rating, squared, squared, train=(x, y), val=(-x, y))
    shell = Shell(NESTOR_SERVER=server.url, NESTOR_TOKEN=token)
    with Client(server.url, token) as client:
        trial = nestor.create_study("rated", server=client).optimize(problem, 3, **QUICK)
        file = tmp_path / "rater.safetensors"
        shell("export", trial.id, "--rater", file, "--rater-name", "rating")
        assert file.read_bytes() == client.rater(trial.id, name="rating")

        plain, new = nn.Linear(2, 1), torch.randn(5, 2)
        plain.load_state_dict(safetensors.torch.load_file(file))
        assert torch.equal(plain(new).flatten().sigmoid(), trial.rater(rating)(new))
        at = {step: client.rater(trial.id, step, name="rating") for step in (0, 1, 2, 3)}
        assert at[trial.best_step or 0] == file.read_bytes()
        assert len(set(at.values())) == 4

        assert "no network 'loss_reweighting'" in shell("export", trial.id, "--rater", file, code=1)
        other = nestor.create_study("not rated", server=client).optimize(ridge(), 1, **QUICK)
        with pytest.raises(RaterNotFound):
            client.rater(other.id)
