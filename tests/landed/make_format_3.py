"""Wrote the checkpoints of `checkpoints_format_3`, in the version of commit 090892f: never write them anew.

git worktree add ../format_3 090892f && make -C ../format_3 install
cp -r tests/landed ../format_3/tests/ && cd ../format_3 && .venv/bin/python -m tests.landed.make_format_3
"""

from __future__ import annotations

from tests.engine.pins import interrupted
from tests.landed import CHECKPOINTS_FORMAT_3, checkpoint_of
from tests.landed.make_engine import CONFIGS, config_of
from tests.landed.problems import PROBLEMS

if __name__ == "__main__":
    CHECKPOINTS_FORMAT_3.mkdir(exist_ok=True)
    for name, (step, _) in CONFIGS.items():
        checkpoint = interrupted(PROBLEMS[name](), config_of(name), step)
        checkpoint_of(name, CHECKPOINTS_FORMAT_3).write_bytes(checkpoint)
