"""Install peer libraries into a separate folder that only the benchmarks use, not into .venv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Without their dependencies, which are installed already, not needed, or listed here. The requirements of betty are
# invalid for pip. Those of curvlinops and boat include torchvision, which would replace torch and is not used here.
PEERS = """
betty-ml==0.1.1
torchopt==0.7.3 optree==0.17.0 graphviz==0.21
hypergrad==0.0.1
boat-torch==1.1.1 higher==0.2.1 matplotlib==3.11.2 contourpy==1.3.3 cycler==0.12.1 kiwisolver==1.5.1
pyparsing==3.3.3 fonttools==4.68.0 pillow==13.0.0
curvlinops-for-pytorch==3.0.1 backpack-for-pytorch==1.7.1 einops==0.8.2 einconv==0.1.0 unfoldNd==0.2.3
linear_operator==0.6.1 jaxtyping==0.3.11 wadler_lindig==0.1.8 opt_einsum==3.4.0
""".split()
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nestor"


def install_peers() -> None:
    """Make the peers importable in this process. They are downloaded once, which takes a few seconds.

    Without a network, only installed peers are measured. The rows of the others have the reason.
    """
    folder = CACHE / f"peers-{sys.version_info.major}.{sys.version_info.minor}"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text().split() != PEERS:
        command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade", "--target", folder]
        if subprocess.run([*command, *PEERS], check=False).returncode == 0:
            stamp.write_text(" ".join(PEERS))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that it replaces no installed package
