"""Ctrl-C, as a user types it: a SIGINT to a script that waits in `study.optimize`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nestor
from nestor.schemas import State

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import nestor
from tests.client.problems import ridge

def announce(study, trial):
    sys.stdout.write(f"{{trial.last_step.number}}\\n")  # in one piece: Ctrl-C may come between a print and its newline
    sys.stdout.flush()

study = nestor.create_study("interrupted", server={server!r}, load_if_exists=True)
try:
    study.optimize(ridge(), 100_000, callbacks=[announce], show_progress_bar=False)
finally:
    trial = study.trials[-1]
    print("left", trial.state.value, len(trial.steps) > 0, flush=True)
"""


def interrupted(server: str | None, token: str = "") -> tuple[list[str], str, int]:
    """Run the script, send SIGINT after its third step; (standard output, standard error, exit code)."""
    environment = {**os.environ, "NESTOR_TOKEN": token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(server=server)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    watchdog = threading.Timer(60, script.kill)
    watchdog.start()
    try:
        assert script.stdout is not None
        for line in script.stdout:
            if line == "3\n":
                script.send_signal(signal.SIGINT)
                break
        out, error = script.communicate()
    finally:
        watchdog.cancel()
    return out.splitlines(), error, script.returncode


def test_ctrl_c_leaves_a_trial_on_a_server_running_and_says_how_to_come_back(server, worker):
    token = server.new_token()
    out, error, code = interrupted(server.url, token)
    assert out[-1] == "left running True"
    assert code == -signal.SIGINT

    with nestor.Client(server.url, token) as client:
        (trial,) = nestor.load_study("interrupted", server=client).trials
        assert f"Detached from trial 0, which continues at {server.url}" in error.splitlines()[-1]
        assert f"`nestor watch {trial.id}`" in error
        numbers = [step.number for step, _ in zip(trial.stream(), range(10), strict=False)]
        assert numbers == list(range(1, 11))
        trial.stop()
        assert trial.wait().state is State.complete


def test_ctrl_c_pauses_a_trial_of_this_process_and_keeps_what_it_recorded():
    out, error, code = interrupted(None)
    assert out[-1] == "left paused True"
    assert "Trial 0 is paused at step" in error.splitlines()[-1]
    assert code == -signal.SIGINT
