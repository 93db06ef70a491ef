"""What the gateway costs, beside others that stand before the same engine in the same run.

    python -m bench.gateway [--peers direct,nginx,gatehouse,vllm-router] [--measures request,chunk,…] [--passes 2]

Everything is built and started here: a mock engine and a load generator in C, a Redis, the gateway as in production.
Each measure is taken of all peers in turn, `--passes` times. The table shows the median; of CPU time the lowest, for
what else a machine does can only add to it. What is measured runs on one core, the rest on the others. On a machine
that does other work trust the CPU columns of many short passes (`--passes 12 --seconds 0.5`), and nginx beside them.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.gateway import host, report
from bench.gateway.measures import MEASURES, started, take
from bench.gateway.peers import PEERS, Peer, Running, gatehouse


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=_some(PEERS), default="direct,nginx,gatehouse", help=", ".join(PEERS))
    parser.add_argument("--measures", type=_some(MEASURES), default=",".join(MEASURES), help=", ".join(MEASURES))
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--budget", action="store_true", help="the gateway with each layer taken out, instead of peers")
    parser.add_argument("--against", type=Path, help="the checkout of another version, to stand beside this one")
    parser.add_argument("--python", action="append", help="that the gateway runs with; each named stands for itself")
    parser.add_argument("--out", type=Path, help="JSON file for the results; their plot goes beside it, as .png")
    chosen = parser.parse_args()
    pythons: list[str] = chosen.python or [sys.executable]
    if len(pythons) > 1 and (chosen.against or chosen.budget):
        parser.error("--against and --budget take one --python")
    peers: dict[str, Peer] = {}
    for name in chosen.peers:
        peers |= gatehouses(pythons) if name == "gatehouse" else {name: PEERS[name]}
    if chosen.against:
        other = "gatehouse, other version"
        peers[other] = gatehouse(other, checkout=chosen.against.resolve(), python=pythons[0])
    if chosen.budget:
        peers = {"nginx": PEERS["nginx"]} | {
            name: gatehouse(name, without=gone, python=pythons[0]) for name, gone in report.BUDGET.items()
        }
    machine = host.describe()
    found = report.with_added(measure(peers, chosen.measures, passes=chosen.passes, seconds=chosen.seconds))
    print(report.table(found))
    if chosen.budget:
        print("\n" + report.budget(found))
    if chosen.out:
        run = {"passes": chosen.passes, "seconds": chosen.seconds}
        against = {"other_version": host.revision(chosen.against)} if chosen.against else {}
        host.write(chosen.out, machine | run | against | {"results": found})
        report.bars(found, chosen.out.with_suffix(".png"))


def gatehouses(pythons: list[str]) -> dict[str, Peer]:
    """The gateway on each of these interpreters; where there are several, their versions are its names.

    Raises ValueError where two have the same.
    """
    if len(pythons) == 1:
        return {"gatehouse": gatehouse(python=pythons[0])}
    peers: dict[str, Peer] = {}
    for python in pythons:
        name = f"gatehouse, {host.interpreter(python)}"
        if name in peers:
            raise ValueError(f"two interpreters are {name.partition(', ')[2]}")
        peers[name] = gatehouse(name, python=python)
    return peers


def _some(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Names of these, with commas between them."""
    names = list(known)

    def parse(value: str) -> list[str]:
        chosen = value.split(",")
        if unknown := [name for name in chosen if name not in names]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(names)}")
        return chosen

    return parse


def measure(peers: dict[str, Peer], measures: list[str], *, passes: int, seconds: float) -> report.Results:
    """All measures of all peers, interleaved."""
    found: report.Results = {}
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(started(seconds))
        running: list[Running] = []
        for start in peers.values():
            running.append(stack.enter_context(bench.before(start)))
            with running[-1].awake():
                pass  # from here on it sleeps
        for number in range(passes):
            for name in measures:
                for peer in running if number % 2 == 0 else reversed(running):
                    with peer.awake():
                        figures = take(name, bench, peer)
                    print(
                        f"{name:13} {peer.name:30} " + "  ".join(f"{k} {report.show(v)}" for k, v in figures.items()),
                        file=sys.stderr,
                    )
                    for figure, value in figures.items():
                        found.setdefault(name, {}).setdefault(peer.name, {}).setdefault(figure, []).append(value)
    return found


if __name__ == "__main__":
    main()
