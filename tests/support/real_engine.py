"""The real vLLM on the CPU: installed once outside the clone, started by the launcher like any other engine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

CPU = Path(__file__).resolve().parents[2] / "deploy" / "cpu"
INSTALL_SECONDS = 1500.0


def install() -> tuple[Path, Path]:
    """The environment that holds vLLM, and the tiny model. Fails, with what pip said, where they cannot be had."""
    done = subprocess.run(
        [str(CPU / "install.sh")], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            "The tests of tests/engine need the real vLLM, and deploy/cpu/install.sh could not install it "
            f"(exit {done.returncode}):\n{done.stderr[-3000:]}"
        )
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return Path(found["vllm"]), Path(found["model"])


def real_engine(vllm: Path, model: Path, **engine: Any) -> dict[str, Any]:
    """The configuration of deploy/cpu with this vLLM and this model."""
    config = yaml.safe_load((CPU / "gatehouse.yaml").read_text("utf-8"))
    settings = config["engine"]
    settings |= {"command": [str(vllm / "bin" / "vllm")], "model": str(model), **engine}
    settings["env"] |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": str(CPU / "shim")}
    return config
