"""What the libraries take before a line of Gatehouse is imported: the gateway's own, in one fresh interpreter.

    python -m bench.gateway.imports [--python ../3.13/bin/python]

Resident memory in MB of 2**20 bytes as the kernel counts it for the process, and how much of it is pages of files,
which others may share. What two of them need counts for the one that comes first.
"""

import argparse
import json
import subprocess
import sys

STEPS = {
    "the interpreter": "sys",
    "asyncio with uvloop": "asyncio, uvloop",
    "aiohttp": "aiohttp.web",
    "msgspec, httptools, hiredis": "msgspec, httptools, hiredis",
    "prometheus_client": "prometheus_client",
    "redis-py": "redis.asyncio",
    "SQLAlchemy with aiosqlite": "sqlalchemy.dialects.sqlite.aiosqlite",
    "pydantic with pydantic-settings": "pydantic_settings",
    "click": "click",
}
IMPORTING = """
import importlib, json, os, sys
for name, modules in json.loads(sys.argv[1]).items():
    for module in modules.split(", "):
        importlib.import_module(module)
    with open("/proc/self/statm") as file:
        pages = file.read().split()
    print(json.dumps([name, *(int(each) * os.sysconf("SC_PAGE_SIZE") / 2**20 for each in pages[1:3])]))
"""


def main() -> None:
    """Import, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    argv = [parser.parse_args().python, "-c", IMPORTING, json.dumps(STEPS)]
    rows = map(json.loads, subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines())
    before = 0.0
    print(f"{'MB':33} {'adds':>6} {'in all':>6} {'of files':>8}")
    for name, resident, shared in rows:
        print(f"{name:33} {resident - before:6.1f} {resident:6.1f} {shared:8.1f}")
        before = resident


if __name__ == "__main__":
    main()
