"""What the gateway costs, beside others that stand before the same engine in the same run.

    python -m bench.gateway [--peers direct,nginx,gatehouse,vllm-router] [--measures request,chunk,…] [--passes 2]

Everything is built and started here: a mock engine and a load generator in C, a Redis, the gateway as in production.
Each measure is taken of all peers in turn, `--passes` times. The table shows the median; of CPU time the lowest, for
what else a machine does can only add to it. What is measured runs on one core, the rest on the others. On a machine
that does other work trust the CPU columns of many short passes (`--passes 12 --seconds 0.5`), and nginx beside them.
"""

import argparse
import contextlib
import datetime as dt
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.gateway import bodies, host
from bench.gateway.measures import MEASURES, Bench, take
from bench.gateway.peers import PEERS, REST, Running, gatehouse

Results = dict[str, dict[str, dict[str, list[float | None]]]]  # measure → peer → figure → a value for each pass

BUDGET: dict[str, tuple[str, ...]] = {
    "gatehouse": (),
    "gatehouse, no record": ("record",),
    "gatehouse, no metrics": ("metrics",),
    "gatehouse, no tokens": ("tokens",),
    "gatehouse, usage left in": ("usage",),
    "gatehouse, limits in process": ("redis",),
    "gatehouse, none of these": ("record", "metrics", "tokens", "usage", "redis"),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="direct,nginx,gatehouse")
    parser.add_argument("--measures", default=",".join(MEASURES))
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--budget", action="store_true", help="the gateway with each layer taken out, instead of peers")
    parser.add_argument("--against", type=Path, help="the checkout of another version, to stand beside this one")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    chosen = parser.parse_args()
    peers = {name: PEERS[name] for name in chosen.peers.split(",")}
    if chosen.against:
        peers["gatehouse, other version"] = gatehouse("gatehouse, other version", checkout=chosen.against.resolve())
    if chosen.budget:
        peers = {"nginx": PEERS["nginx"]} | {name: gatehouse(name, without=gone) for name, gone in BUDGET.items()}
    machine = host.describe()
    found = measure(peers, chosen.measures.split(","), passes=chosen.passes, seconds=chosen.seconds)
    print(table(found))
    if chosen.out:
        content = {
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M"),
            **machine,
            "passes": chosen.passes,
            "seconds": chosen.seconds,
            "other_version": host.revision(chosen.against) if chosen.against else None,
            "results": found,
        }
        chosen.out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def measure(peers: dict[str, Any], measures: list[str], *, passes: int, seconds: float) -> Results:
    """All measures of all peers, interleaved."""
    found: Results = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehouse-bench-", dir="/tmp")))
        host.build(folder)
        bodies.write(folder)
        engine = host.free_port()
        stack.enter_context(host.running([str(folder / "engine"), str(engine)], folder / "engine.log", on=REST))
        host.until("the engine", lambda: host.get(f"http://127.0.0.1:{engine}/health"))
        bench = Bench(folder, engine, seconds)
        started: list[Running] = []
        for name, start in peers.items():
            own = folder / name.replace(" ", "-")
            own.mkdir()
            started.append(stack.enter_context(start(own, engine)))
            with started[-1].awake():
                pass  # from here on it sleeps
        for number in range(passes):
            for name in measures:
                for peer in started if number % 2 == 0 else reversed(started):
                    with peer.awake():
                        figures = take(name, bench, peer)
                    print(
                        f"{name:13} {peer.name:30} " + "  ".join(f"{k} {_show(v)}" for k, v in figures.items()),
                        file=sys.stderr,
                    )
                    for figure, value in figures.items():
                        found.setdefault(name, {}).setdefault(peer.name, {}).setdefault(figure, []).append(value)
    return found


def table(found: Results) -> str:
    """The medians, as Markdown: a line for each peer."""
    columns = [(measure, figure) for measure, peers in found.items() for figure in next(iter(peers.values()))]
    names = list(next(iter(found.values())))
    lines = ["| | " + " | ".join(f"{measure} {figure}" for measure, figure in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in names:
        cells = [_show(typical(figure, found[measure][name][figure])) for measure, figure in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def typical(figure: str, values: list[float | None]) -> float | None:
    """The median of what was measured; of CPU time the least."""
    known = [value for value in values if value is not None]
    return (min if figure == "cpu_us" else statistics.median)(known) if known else None


def _show(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
