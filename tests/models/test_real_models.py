"""Models of transformers, peft and timm train in this process and on a worker, with equal numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import nestor
from nestor import Client
from nestor_engine.program import load
from nestor_engine.program.export import few
from testbed.server import running_server
from testbed.services import Services
from testbed.worker import running_worker
from tests.models.real import PROBLEMS, problem

pytestmark = [
    pytest.mark.cpu,
    # peft reads an attribute of the model whose name transformers has changed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
BROKER = 13  # a database of Valkey that no other test uses, so that no other worker takes these messages
QUICK: dict[str, Any] = {
    "n_steps": 2,
    "inner": nestor.Adam(1e-2),
    "inner_steps": 2,
    "batch_size": 8,
    "show_progress_bar": False,
}


@pytest.fixture(scope="module")
def client(services: Services) -> Iterator[Client]:
    """A server with a worker, which has none of these libraries loaded."""
    with (
        running_server(services, redis_db=BROKER) as server,
        running_worker(server),
        Client(server.url, server.new_token()) as client,
    ):
        yield client


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_real_model_trains_here_and_on_a_worker_to_the_same_numbers(name: str, client: Client):
    here, there = (
        nestor.create_study(name, server=server).optimize(problem(name), **QUICK) for server in (None, client)
    )
    numbers = [
        [(step.number, step.val_loss, step.hypergradient_norm) for step in trial.steps] for trial in (here, there)
    ]
    assert len(numbers[0]) == 2
    for left, right in zip(*numbers, strict=True):
        assert left == pytest.approx(right, rel=1e-4)
    assert all(norm > 0 for _, _, norm in numbers[0])


def test_only_the_changes_and_the_head_of_an_adapted_model_are_trained():
    stated = problem("lora")
    bilevel = stated.bilevel()
    assert bilevel.params
    assert all("lora_" in name or "classifier" in name for name in bilevel.params)
    before = {name: value.clone() for name, value in stated.model.state_dict().items()}
    trial = nestor.create_study().optimize(stated, **QUICK)
    trial.load_weights(stated.model)
    changed = {name for name, value in stated.model.state_dict().items() if not value.equal(before[name])}
    assert changed == set(bilevel.params)


def test_what_the_losses_do_not_read_is_left_out_of_a_program():
    """GPT-2 returns its keys and values, too."""
    stated = problem("gpt2")
    program = stated.export()
    loaded = load(program.graphs, program.tensors)
    outputs, _ = loaded.forward(loaded.params, loaded.buffers, loaded.hparams, few(stated.data.train))
    assert [value is not None for value in outputs] == [True, False, False, False, False]
