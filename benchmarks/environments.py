"""Environments of their own for peers that the project does not depend on, under build/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDS = {
    "neural-tangents": (
        ["neural-tangents==0.6.5", "jax==0.4.30", "jaxlib==0.4.30", "numpy<2", "scipy<1.14"]
    ),
    "onnxruntime": ["onnxruntime==1.31.1", "onnx==1.23.2", "numpy==2.4.6", "sympy==1.14.0"],
}


def peer_environment(name: str) -> str | None:
    """Path of a Python that has the peer; made on first use, None if that fails."""
    folder = ROOT / "build" / name
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        print(f"  making an environment for {name}", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", *NEEDS[name]]
        if made.returncode or subprocess.run(pip).returncode:
            return None
        ready.touch()
    return str(python)
