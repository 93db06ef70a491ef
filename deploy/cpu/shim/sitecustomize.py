"""On PYTHONPATH of a vLLM that runs on a CPU with few cores; Python imports a module of this name at its start.

The shared-memory queue between vLLM's processes spins on sched_yield(). With 2 cores that starves every other process
for seconds at a time (4.2 s were seen, 0.04 s with this); a GPU server has cores to spare and is left alone.
"""
# ruff: noqa: INP001 - the name and place are Python's

import os
import time

PAUSE_SECONDS = 0.0001

os.sched_yield = lambda: time.sleep(PAUSE_SECONDS)
