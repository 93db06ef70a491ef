"""Two GPUs: start, die and come back. Runs `gatehouse up` with the real vLLM and measures what each death costs.

usage: python bench/two_gpus/deaths.py --config FILE --out FOLDER [--deaths parent,engine,worker,hang] [--restart]

For each death, with streams running: when the launcher noticed, how the streams ended, when the GPUs were empty, when
the engine was ready again, whether a request that came in between was served, and what of the dead engine was left.
Writes deaths.json and prints a table. Needs nvidia-smi, unless --no-gpu (then memory is not looked at).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from host import POLL_SECONDS, Watch, alive, gpu_memory

from gatehouse.context import Context
from gateway.auth.keys import load_keys
from gateway.auth.tokens import issue_token

STREAMS = 4
EMPTY_MIB = 1024  # a GPU with less than this in use is taken for empty


class Caller:
    """Talks to the gateway as a service does."""

    def __init__(self, url: str, token: str, model: str) -> None:
        self.url, self.token, self.model = url, token, model

    def complete(self, *, stream: bool, max_tokens: int, name: str) -> dict[str, Any]:
        """One request; returns how it ended.

        Completions, not chat: with random weights the chat's parser finds nothing to send in what the model says.
        """
        body = {
            "model": self.model,
            "prompt": f"Count. {name}",
            "stream": stream,
            "max_tokens": max_tokens,
            "ignore_eos": True,
        }
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "X-Request-Id": name,
        }
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), headers)
        began = time.monotonic()
        result: dict[str, Any] = {"name": name, "began": began, "bytes": 0}
        try:
            with urllib.request.urlopen(request, timeout=900) as answer:
                result["status"] = answer.status
                tail = b""
                while data := answer.read1(65536):
                    result.setdefault("first_byte", time.monotonic())
                    result["bytes"] += len(data)
                    tail = (tail + data)[-600:]
                result |= {"done": b"[DONE]" in tail, "error_event": b'"error"' in tail}
        except urllib.error.HTTPError as error:
            result |= {"status": error.code, "body": error.read()[:300].decode()}
        except (OSError, urllib.error.URLError) as error:
            result["cut"] = repr(error)[:200]
        except Exception as error:  # noqa: BLE001 - http.client's IncompleteRead and its kin: the connection was cut
            result |= {"cut": repr(error)[:200], "error_event": True, "done": False}
        result["ended"] = time.monotonic()
        return result


def start(work: Any, *arguments: Any, **how: Any) -> tuple[threading.Thread, list[Any]]:
    """Run something beside; its result is put into the list."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work(*arguments, **how)), daemon=True)
    thread.start()
    return thread, results


class Scenario:
    """One `gatehouse up`, put through its deaths."""

    def __init__(self, config: Path, state_dir: Path, *, gpu: bool) -> None:
        self.gpu = gpu
        self.state_dir = state_dir
        self.began = time.monotonic()
        context = Context(config_file=config, chosen_state_dir=state_dir)
        self.settings = context.gateway_config()
        argv = [sys.executable, "-m", "gatehouse", "up", "--config", str(config), "--state-dir", str(state_dir)]
        self.process = subprocess.Popen([*argv, "--port", "0", "--admin-port", "0"], start_new_session=True)
        self.watch = Watch(state_dir)

    def ready(self, seconds: float) -> dict[str, Any]:
        """Wait for the first readiness; returns phases with the seconds at which each began."""
        at = self.watch.until("ready", seconds)
        phases: dict[str, float] = {}
        for when, status in self.watch.events:
            phases.setdefault(f"{status['state']} {status.get('phase') or ''}".strip(), round(when - self.began, 1))
        file = self.state_dir / "gateway.json"
        while not file.exists():
            time.sleep(POLL_SECONDS)
        where = json.loads(file.read_text())
        key = load_keys(self.settings)
        token = issue_token(key.signing, self.settings.auth, subject="bench", ttl_seconds=7200)[0]
        self.caller = Caller(where["url"], token, self.settings.engine.model)
        return {"seconds": round(at - self.began, 1), "phases": phases, "gpu_mib": gpu_memory() if self.gpu else []}

    def engine_tree(self) -> dict[str, psutil.Process]:
        """The engine's processes by the part they play."""
        parent = psutil.Process(int(self.watch.now["pid"]))
        tree = {"parent": parent}
        for child in parent.children(recursive=True):
            # the kernel's name (15 characters) is what vLLM sets; its argv keeps Python's
            if "EngineCor" in child.name():
                tree["engine"] = child
            elif "Worker" in child.name():
                tree.setdefault("worker", child)
            tree[f"pid {child.pid} {child.name()}"] = child
        return tree

    def die(self, death: str, patience: float) -> dict[str, Any]:
        """Run one death; returns what was seen, in seconds from the signal."""
        tree = self.engine_tree()
        victim = tree["worker" if death == "hang" else death]
        streams = [
            start(self.caller.complete, stream=True, max_tokens=4000, name=f"{death}-{i}-{time.time_ns()}")
            for i in range(STREAMS)
        ]
        time.sleep(2)
        killed = time.monotonic()
        victim.send_signal(signal.SIGSTOP if death == "hang" else signal.SIGKILL)
        noticed = self.watch.until("ready", patience, after=killed, other=True)
        late = start(self.caller.complete, stream=True, max_tokens=20, name=f"{death}-late-{time.time_ns()}")
        emptied = self._until_empty(killed, patience) if self.gpu else None
        ready = self.watch.until("ready", patience, after=noticed)
        for thread, _ in (*streams, late):
            thread.join(patience)
        ended = [results[0] for _, results in streams if results]
        served = late[1][0] if late[1] else {}
        reason = next((s["reason"] for at, s in self.watch.events if at >= noticed and s.get("reason")), "")
        return {
            "death": death,
            "noticed_s": round(noticed - killed, 2),
            "reason": reason,
            "gpus_empty_s": emptied,
            "ready_again_s": round(ready - killed, 1),
            "streams": len(ended),
            "streams_with_error_event": sum(bool(r.get("error_event")) for r in ended),
            "streams_with_done": sum(bool(r.get("done")) for r in ended),
            "streams_ended_s": round(max((r["ended"] for r in ended), default=killed) - killed, 2),
            "late_request": {
                "status": served.get("status"),
                "done": served.get("done"),
                "waited_s": round(served.get("ended", killed) - served.get("began", killed), 1),
            },
            "left_of_the_dead": [
                p.name() for p in tree.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE
            ],
            "gpu_mib_after": gpu_memory() if self.gpu else [],
        }

    def _until_empty(self, killed: float, patience: float) -> float | None:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if all(used < EMPTY_MIB for used in gpu_memory()):
                return round(time.monotonic() - killed, 2)
            time.sleep(POLL_SECONDS)
        return None

    def planned_restart(self, patience: float) -> dict[str, Any]:
        """`gatehouse engine restart` under load: every request must be answered."""
        flows = [
            start(self.caller.complete, stream=bool(i % 2), max_tokens=300, name=f"restart-{i}-{time.time_ns()}")
            for i in range(16)
        ]
        time.sleep(1)
        asked = time.monotonic()
        argv = [sys.executable, "-m", "gatehouse", "engine", "restart", "--state-dir", str(self.state_dir)]
        subprocess.run(argv, check=True, timeout=60)
        left = self.watch.until("ready", patience, after=asked, other=True)
        flows += [
            start(self.caller.complete, stream=bool(i % 2), max_tokens=20, name=f"during-{i}-{time.time_ns()}")
            for i in range(8)
        ]
        ready = self.watch.until("ready", patience, after=left)
        for thread, _ in flows:
            thread.join(patience)
        results = [r[0] for _, r in flows if r]
        good = [r for r in results if r.get("status") == 200 and "cut" not in r and not r.get("error_event")]
        return {"requests": len(flows), "answered": len(good), "ready_again_s": round(ready - asked, 1)}

    def stop(self) -> dict[str, Any]:
        """Ctrl-C; what is left must be nothing."""
        tree = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(180)
        seconds = round(time.monotonic() - began, 1)
        return {"exit": code, "seconds": seconds, "left": alive(tree), "gpu_mib": gpu_memory() if self.gpu else []}


def main() -> int:
    """Run the scenario and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, default=Path("/tmp/gatehouse-two-gpus"))
    parser.add_argument("--deaths", default="parent,engine,worker,hang")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--no-gpu", action="store_true")
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no further death after so long")
    options = parser.parse_args()
    began = time.monotonic()
    report: dict[str, Any] = {"deaths": []}
    scenario = Scenario(options.config, options.state_dir, gpu=not options.no_gpu)
    try:
        report["start"] = scenario.ready(options.patience * 2)
        print("start", json.dumps(report["start"]), flush=True)
        for death in filter(None, options.deaths.split(",")):
            if time.monotonic() - began > options.seconds:
                report.setdefault("left_out", []).append(death)
                continue
            report["deaths"].append(scenario.die(death, options.patience))
            print("death", json.dumps(report["deaths"][-1]), flush=True)
        if options.restart:
            report["planned_restart"] = scenario.planned_restart(options.patience)
            print("restart", json.dumps(report["planned_restart"]), flush=True)
        report["stop"] = scenario.stop()
        print("stop", json.dumps(report["stop"]), flush=True)
    except Exception as error:  # noqa: BLE001 - what was measured until then is worth keeping
        report["error"] = repr(error)
        print("error", repr(error), flush=True)
    finally:
        if scenario.process.poll() is None:
            os.killpg(scenario.process.pid, signal.SIGTERM)
            scenario.process.wait(120)
        report["launcher_events"] = [(round(at - scenario.began, 2), s) for at, s in scenario.watch.events][-200:]
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "deaths.json").write_text(json.dumps(report, indent=1))
    return 1 if "error" in report else 0


if __name__ == "__main__":
    sys.exit(main())
