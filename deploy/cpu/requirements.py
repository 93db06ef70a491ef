"""Prints what a distribution requires, one requirement a line, less what a CPU server has no use for.

usage: requirements.py DISTRIBUTION     (with the interpreter of the environment it is installed in)
"""
# ruff: noqa: INP001, T201 - a script

import importlib.metadata
import re
import sys

from pip._vendor.packaging.requirements import Requirement

# Builds of PyTorch's siblings for the CPU are not on PyPI, and vLLM imports none of them to serve text.
UNUSED = re.compile(r"torch|nvidia|triton")

for line in importlib.metadata.requires(sys.argv[1]) or []:
    requirement = Requirement(line)
    if UNUSED.match(requirement.name) or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
        continue
    requirement.marker = None
    print(requirement)
