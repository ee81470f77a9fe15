"""The documents are true: their code runs, their counts are measured, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from torch import nn
from torch.nn import functional as F

import nestor
import nestor_engine
from benchmarks import document
from examples.paper import EXPERIMENTS
from examples.provenance import caption
from nestor.hparams import L2
from nestor.options.responses import Response
from nestor.remote.client import Client
from nestor.schemas import State, StudyCreate, TrialCreate
from testbed.server import Server
from testbed.worker import Worker

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
WEIGHTS = 3 * 40 + 3


def _shell(example: Example) -> None:
    done = subprocess.run(["bash", "-euc", example.parsed], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def _run(page: str) -> Document:
    parsers = [SkipParser(), PythonCodeBlockParser(), CodeBlockParser("bash", _shell)]
    parsed = Sybil(parsers).parse(ROOT / page)
    for example in parsed.examples():
        example.evaluate()
    return parsed


def test_the_code_in_the_readme_runs(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "NESTOR_URL", server.url)
    monkeypatch.setitem(os.environ, "NESTOR_TOKEN", server.token)

    readme = _run("README.md")

    assert readme.namespace["decays"].shape == (64, 20)
    with Client(server.url, token=server.token) as client:
        (trial,) = client.trials(client.find_study("from the shell").id)
    assert trial.n_steps == 30
    assert trial.state in (State.queued, State.running, State.complete)


def test_the_commands_of_the_page_on_curl_submit_watch_steer_and_read_a_trial(
    server: Server, worker: Worker, tmp_path: Path
):
    """They run as one script, in which later ones use what earlier ones have read."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs/rest.md").read_text(), re.MULTILINE | re.DOTALL)
    environment = os.environ | {"NESTOR_URL": server.url, "NESTOR_TOKEN": server.new_token()}
    script = ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)]
    done = subprocess.run(
        script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Did you mean 'inner_steps'?" in done.stdout
    assert done.stdout.splitlines()[1:6] == ["complete", "304", "{'complete': 1}", "25", "{'owner': 'ada'}"]
    assert len(safetensors.numpy.load_file(tmp_path / "tuned.safetensors")) == 4
    assert np.load(tmp_path / "first.npy").shape == (32, 64)
    assert np.load(tmp_path / "rows.npy").shape == (2, 64)
    with Image.open(tmp_path / "decays.png") as picture:
        assert picture.size == (64 * 4, 32 * 4)


def _products() -> dict[str, int]:
    """The products per outer step of each method, from the table of docs/methods.md; `n` is the number of weights."""
    rows = re.findall(
        r"^\| .* \| `(\w+)` \| .* \| (\d+|n \+ 1) \|$", (ROOT / "docs/methods.md").read_text(), re.MULTILINE
    )
    return {method: WEIGHTS + 1 if here == "n + 1" else int(here) for method, here in rows}


def test_every_method_of_the_table_tunes_something_with_the_products_of_the_table():
    page = _run("docs/methods.md")
    named, table = page.namespace, _products()
    responses = {name for name, value in named.items() if isinstance(value, Response)}
    assert responses == table.keys()
    sections = re.findall(r"^### (\w+)$", page.text, re.MULTILINE)
    assert sorted(sections) == sorted(table)
    torch.manual_seed(0)
    model, x = nn.Linear(40, 3), torch.randn(60, 40)
    batch = (x, torch.arange(60) % 3)
    loss = lambda out, batch: F.cross_entropy(out, batch["y"])
    problem = nestor.Problem(model, L2(model, per="tensor", init=-3.0), loss, loss, train=batch, val=batch)
    before = problem.bilevel().hparams["l2"]
    for method, products in table.items():
        trial = nestor.create_study(method).optimize(
            problem, n_steps=3, response=named[method], show_progress_bar=False
        )
        tuned, last = trial.hparams["l2"], trial.last_step
        assert isinstance(tuned, torch.Tensor)
        assert torch.equal(tuned, before) == (method == "direct_only")
        assert last is not None
        assert (method, last.products) == (method, products)


def test_every_documented_kind_of_hyperparameters_can_be_tuned():
    torch.manual_seed(0)
    shown = _run("docs/hyperparameters.md").namespace
    assert shown["report"].findings == ()
    assert shown["pictures"].shape == (10, 16)
    assert not torch.equal(shown["scales"], torch.ones(4))
    for problem in (shown["problem"], shown["playing"], shown["own"]):
        before = problem.bilevel().hparams
        *_, last = nestor_engine.optimize(problem.bilevel(), problem.data, nestor.Config(n_steps=2))
        assert [name for name, value in before.items() if torch.equal(last.state.hparams[name], value)] == []


def test_the_metrics_of_the_metrics_page_are_exact():
    torch.manual_seed(0)
    shown = _run("docs/metrics.md").namespace
    trial, net, columns = shown["trial"], shown["Net"](), shown["columns"]
    trial.load_weights(net)
    with torch.no_grad():
        expected = float(shown["precision"](net(columns["x"]), columns))
    assert shown["tested"]["precision"] == pytest.approx(expected, rel=1e-5)


def test_the_data_of_the_data_page_can_be_tuned_on():
    torch.manual_seed(0)
    shown = _run("docs/data.md").namespace
    assert shown["report"].findings == ()
    for problem in (shown["problem"], shown["tabular"]):
        *_, last = nestor_engine.optimize(problem.bilevel(), problem.data, nestor.Config(n_steps=2))
        assert last.number == 2


def test_the_best_step_of_the_page_on_values_is_that_of_its_trial():
    torch.manual_seed(0)
    trial = _run("docs/values.md").namespace["trial"]
    accuracies = {step.number: step.metrics["accuracy"] for step in trial.steps if step.value is not None}
    assert list(accuracies) == [4, 8, 12]
    assert trial.best_value == accuracies[trial.best_step] == max(accuracies.values())


def test_the_page_on_confirmations_shows_the_rows_that_its_code_prints():
    shown = _run("docs/confirm.md").namespace["confirmation"]
    rows = shown.rows()
    assert [row[0] for row in rows] == ["weights", "as tuned, step 30", "trained on train", "trained on train+val"]
    assert shown.mean("train")["value"] > shown.tuned.value


def test_the_trial_of_the_page_on_verdicts_gets_the_verdict_that_it_names():
    trial = _run("docs/verdict.md").namespace["trial"]
    assert (trial.verdict.answer, trial.verdict.code) == ("no", "hypergradient_zero")


def test_the_code_for_those_who_come_from_optuna_runs():
    shown = _run("docs/from_optuna.md").namespace
    assert shown["trial"].user_attrs == {"test accuracy": 0.91}
    assert shown["trial"].tags == ("candidate",)
    assert len(shown["outer"].trials) == 3
    assert [trial.state in ("complete", "pruned") for trial in shown["trials"]] == [True] * 4


def test_the_results_of_the_results_page_are_those_of_its_trial(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NESTOR_SERVER", server.url)
    monkeypatch.setenv("NESTOR_TOKEN", server.new_token())
    with Client() as client:
        for name in ("baseline, long", "other"):
            made = client.create_study(StudyCreate(name=name, tags=("paper",)))
            client.create_trial(made.id, TrialCreate.model_validate({"problem": {"preset": {}}, "n_steps": 10**6}))
        client.delete_study(made.id)
    shown = _run("docs/results.md").namespace
    assert shown["trials"] == {"baseline, long": []}
    assert [study.name for study in shown["deleted"]] == ["other"]
    trial = shown["trial"]
    assert torch.equal(shown["hparams"].transformed["l2"], trial.best_hparams["l2"].exp())
    assert {group["weight_decay"] for group in shown["groups"]} == set(trial.best_hparams["l2"].exp().tolist())
    assert torch.equal(shown["model"].weight, trial.state_dict()["weight"])
    assert list(shown["weighted"]["weight"]) == trial.example_weights().tolist()
    assert shown["scores"].shape == (5,)


# --- what the pages name ---------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("client/nestor", "server/nestor_server", "worker/nestor_engine", "worker/nestor_worker")


def test_every_path_on_the_architecture_page_exists():
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", ARCHITECTURE)
    assert len(named) > 40
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_architecture_page_names_every_folder_of_the_packages():
    folders = {
        f"{package}/{folder.name}/"
        for package in PACKAGES
        for folder in (ROOT / package).iterdir()
        if any(path.is_file() and path.suffix != ".pyc" for path in folder.rglob("*"))
        if folder.name != "__pycache__"
    }
    assert sorted(folder for folder in folders if f"`{folder}`" not in ARCHITECTURE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{target}#{anchor}"


def _anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    listed = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    assert listed == set(PAGES) - {ROOT / "docs" / "README.md"}


def test_every_table_of_measurements_names_its_commit():
    """Each names "commit 0123abc", or says that the commit is not recorded."""
    performance, reproduction = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("performance", "reproduction"))
    captions = [
        *(re.findall(rf"<!-- {name} -->\n\n(.*?)\n\n", performance, re.DOTALL)[0] for name in document.NAMES),
        performance.split("## On a GPU\n\n")[1].split("\n\n")[0],
        *re.findall(r"^`python -m examples\.paper \w+`.*?\n\n", reproduction, re.MULTILINE | re.DOTALL),
    ]
    assert len(captions) == len(document.NAMES) + 1 + len(EXPERIMENTS)
    assert [text for text in captions if not re.search(r"[Cc]ommits? (\w{7}\b|not recorded)", text)] == []


def test_a_new_table_is_written_with_its_commit(tmp_path: Path):
    (tmp_path / "scaling.json").write_text("[]")
    (tmp_path / "scaling.caption.txt").write_text(caption("benchmarks.scaling", ["--quick"]))
    text = document.document("before\n<!-- scaling -->\n\nold\n\n<!-- end -->\nafter", tmp_path)
    stamp = r"`python -m benchmarks\.scaling --quick`; \d{4}-\d\d-\d\d; commit (\w{7,}|not recorded).*; .*, torch .*\."
    table = r"\| hyperparameters \|.*"
    expected = rf"before\n<!-- scaling -->\n\n{stamp}\n\n{table}\n\n<!-- end -->\nafter"
    assert re.fullmatch(expected, text, re.DOTALL)
