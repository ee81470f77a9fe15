"""Real trials of each kind that the pages draw, trained by a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from nestor.hparams import L2, DistilledData, ExampleWeights
from testbed.server import Server, running_server
from testbed.services import Services
from testbed.worker import running_worker

BROKER = 12  # a database of Valkey that no other test uses, so that no other worker takes these trials
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b>"
Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Gallery:
    """A server with finished trials, one in each study, all of one user."""

    server: Server
    token: str
    studies: dict[str, str]  # ids by name
    trials: dict[str, str]

    def address(self, name: str) -> str:
        return f"#/trials/{self.trials[name]}"


def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def accuracy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float()


def digits(n: int, *, noise: float = 0.0, seed: int = 0) -> Split:
    """Pictures of 8 × 8 whose class is the row that is bright; `noise` of the labels are those of the next class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 8, (n,), generator=generator)
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=generator)
    x[torch.arange(n), 0, y] += 1.0
    wrong = torch.rand(n, generator=generator) < noise
    return x, torch.where(wrong, (y + 1) % 8, y)


def network(width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8))


def weighted() -> nestor.Problem:
    """Example weights, beside a decay of each tensor: the kind of `make demo`."""
    net = network()
    train, val, test = digits(200, noise=0.4), digits(60, seed=1), digits(200, seed=2)
    hparams = [ExampleWeights(200), L2(net, per="tensor", init=-4.5)]
    return nestor.Problem(net, hparams, loss, loss, metrics={"accuracy": accuracy}, train=train, val=val, test=test)


def distilled() -> nestor.Problem:
    """Pictures that are trained on, and are hyperparameters."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    x, y = DistilledData.start(*digits(80), per_class=1, kind="noise", seed=0)
    hparams = [DistilledData(0.1 * x), L2(net, per="global", init=-4.0)]
    return nestor.Problem(net, hparams, loss, loss, train=(0.1 * x, y), val=digits(80, seed=1), test=digits(80, seed=2))


def million() -> nestor.Problem:
    """1,011,010 decays."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10))
    x, y = torch.randn(100, 1000), torch.randint(0, 10, (100,))
    return nestor.Problem(
        net, L2(net, per="weight", init=-6.0), loss, loss, train=(x[:50], y[:50]), val=(x[50:], y[50:])
    )


def decays() -> nestor.Problem:
    net = network()
    return nestor.Problem(net, L2(net, per="weight", init=-6.0), loss, loss, train=digits(100), val=digits(50, seed=1))


def hostile() -> nestor.Problem:
    """With a metric whose name is markup."""
    net = network()
    train, val = digits(100), digits(50, seed=1)
    decay = L2(net, per="tensor", init=-6.0)
    return nestor.Problem(net, decay, loss, loss, metrics={HOSTILE: accuracy}, train=train, val=val)


NEUMANN = nestor.Implicit(nestor.GaussNewton(), nestor.WarmStarted(nestor.Neumann(2)))
DIVERGING = nestor.Implicit(nestor.Hessian(), nestor.Neumann(50, alpha=10.0))
KINDS = {
    "example weights": (weighted, 40, {"response": NEUMANN, "outer": nestor.Adam(0.2), "inner": nestor.Adam(1e-2)}),
    "distilled": (distilled, 12, {"outer": nestor.Adam(0.05), "inner": nestor.Adam(1e-2), "inner_steps": 10}),
    "million decays": (million, 6, {"response": NEUMANN, "outer": nestor.Adam(0.2), "inner": nestor.Adam(1e-3)}),
    "diverges": (decays, 8, {"response": DIVERGING, "inner": nestor.Adam(1e-3)}),
    "fails": (decays, 30, {"outer": nestor.SGD(1e9), "inner": nestor.SGD(0.1)}),
    HOSTILE: (hostile, 3, {}),
}


@contextmanager
def gallery(services: Services) -> Iterator[Gallery]:
    """Trains one trial of each kind; about half a minute on one core."""
    with running_server(services, redis_db=BROKER) as server, running_worker(server):
        token = server.new_token()
        studies, trials = {}, {}
        for name, (problem, n_steps, options) in KINDS.items():
            study = nestor.create_study(
                name,
                metric=HOSTILE if name == HOSTILE else None,
                direction="maximize" if name == HOSTILE else None,
                note="A note with <i>markup</i>.",
                tags=["gallery"],
                server=server.url,
                token=token,
            )
            trial = study.optimize(problem(), n_steps, wait=False, user_attrs={"<u>key</u>": HOSTILE}, **options)
            studies[name], trials[name] = str(study.id), str(trial.id)
        with server.http(token) as http:
            for name, trial in trials.items():
                _until_it_ends(http, trial, name)
        yield Gallery(server, token, studies, trials)


def _until_it_ends(http, trial: str, name: str) -> None:
    """Wait with the server's long poll."""
    after = 0
    while True:
        page = http.get(f"/trials/{trial}/events", params={"wait": 20, "after": after}).raise_for_status().json()
        if page["ended"]:
            break
        after = page["next_after"]
    state = http.get(f"/trials/{trial}").json()["state"]
    assert state == ("failed" if name == "fails" else "complete"), (name, state)
