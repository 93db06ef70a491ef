"""`python -m launcher.simulator serve MODEL [vLLM's flags]`."""

from __future__ import annotations

import sys

from launcher.simulator.args import parse
from launcher.simulator.lifecycle import run


def main(argv: list[str]) -> int:
    """Run the simulator with the words that would follow `vllm`; returns the exit status."""
    if not argv or argv[0] != "serve":
        print("usage: python -m launcher.simulator serve [model_tag] [options]", file=sys.stderr)  # noqa: T201
        return 2
    return run(*parse(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
