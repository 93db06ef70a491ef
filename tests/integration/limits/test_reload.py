"""Plans and limits change under a gateway that serves: the real command, its file, SIGHUP."""

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatehouse.context import Context
from tests.support import tokens
from tests.support.engines import MODEL, start_simulator
from tests.support.processes import clean_environment
from tests.support.stack import until


class Served:
    """`gatehouse gateway` before a simulator."""

    def __init__(self, folder: Path, engine_url: str) -> None:
        self.folder, self.file, self.engine_url = folder, folder / "gatehouse.yaml", engine_url
        self.state, self.output = folder / "state", folder / "output"
        self.configure(service={"requests_per_minute": 1, "request_burst": 2})
        self.config = Context(self.file, self.state).gateway_config()
        argv = [
            sys.executable,
            "-m",
            "gatehouse",
            "gateway",
            "--config",
            str(self.file),
            "--state-dir",
            str(self.state),
        ]
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [*argv, "--port", "0", "--admin-port", "0"], stdout=out, stderr=out, env=clean_environment()
            )
        until((self.state / "gateway.json").exists, "it listens", alive=self.process)
        self.url = json.loads((self.state / "gateway.json").read_text())["url"]
        until(lambda: self.status("GET", "/readyz") == 200, "it is ready", alive=self.process)

    def configure(self, text: str | None = None, **plans: dict[str, Any]) -> None:
        """Write the file, as an editor does: aside, then in its place."""
        whole = {
            "engine": {"kind": "external", "url": self.engine_url, "served_model_name": MODEL},
            "logging": {"stdout": False},
            "plans": {"member": {}, **plans},
        }
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(whole) if text is None else text)
        draft.replace(self.file)

    def status(self, method: str, path: str, body: Any = None, token: str = "") -> int:
        request = urllib.request.Request(self.url + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except urllib.error.URLError:
            return 0

    def token(self, subject: str, plan: str = "service") -> str:
        return tokens.token(self.config, subject, plan=plan)

    def admitted(self, subject: str, tries: int, plan: str = "service") -> int:
        """How many of so many requests at once pass."""
        token = self.token(subject, plan)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        return sum(self.status("POST", "/v1/chat/completions", body, token) == 200 for _ in range(tries))

    def said(self, pattern: str) -> int:
        """How often that was said."""
        return len(re.findall(pattern, self.output.read_text()))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    engine = start_simulator(log=tmp_path / "engine.log", knobs={"tps": 100})
    served = None
    try:
        address = until(
            lambda: re.search(r"Starting vLLM server on (http://[^ ]*:\d+)", (tmp_path / "engine.log").read_text()),
            "the engine listens", alive=engine,
        )  # fmt: skip
        served = Served(tmp_path, address[1].replace("0.0.0.0", "127.0.0.1"))
        yield served
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0, served.output.read_text()
    finally:
        for process in (engine, served.process if served else engine):
            process.kill()
            process.wait()


def test_limits_change_without_dropping_a_stream(served: Served) -> None:
    """A change of the file counts within seconds, SIGHUP at once; a stream that runs does not notice."""
    assert served.admitted("a", 4) == 2
    events: list[bytes] = []

    def stream() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 400}
        body |= {"stream": True, "ignore_eos": True}
        request = urllib.request.Request(served.url + "/v1/chat/completions", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            events.extend(answer)

    token = served.token("streamer")
    streaming = threading.Thread(target=stream)
    streaming.start()
    until(lambda: len(events) > 10, "the stream runs")
    served.configure(service={"requests_per_minute": 1, "request_burst": 7}, gold={"requests_per_minute": 1})
    until(lambda: served.said("plans and limits are taken over"), "the change was seen", alive=served.process)
    assert served.admitted("b", 9) == 7
    assert served.admitted("c", 2, "gold") == 1
    served.process.send_signal(signal.SIGHUP)
    until(lambda: served.said("are taken over") == 2, "SIGHUP was heard")
    streaming.join(60)
    assert events[-2].strip() == b"data: [DONE]"
    assert any(b'"finish_reason":"length"' in event for event in events)


BAD = {
    "plans: {service: {requests_per_minute: -1}}": r"plans\.service\.requests_per_minute",
    "plans: {service: {": "is not YAML",
    "auth: {default_plan: gold}": "there is no plan 'gold'",
    "nonsense: {}": "nonsense",
}


def test_a_bad_file_changes_nothing_and_says_why(served: Served) -> None:
    """What was in force stays, every mistake is in the log, and the next good file counts."""
    for number, (text, reason) in enumerate(BAD.items(), 1):
        assert served.said(reason) == 0
        served.configure(text)
        until(lambda wanted=number: served.said("not taken over") == wanted, f"{text} was seen", alive=served.process)
        assert served.said(reason) > 0
        assert served.admitted(f"still {number}", 9) == 1 + number
        served.configure(service={"requests_per_minute": 1, "request_burst": 2 + number})
        until(
            lambda wanted=number: served.said("are taken over") == wanted, "the repair was seen", alive=served.process
        )
        assert served.admitted(f"repaired {number}", 9) == 2 + number


def test_what_takes_a_restart_is_said(served: Served) -> None:
    """A change of another section is not half taken over in silence."""
    whole = json.loads(served.file.read_text())
    served.configure(json.dumps({**whole, "gateway": {"max_stop": 3}}))
    until(lambda: served.said("gateway changed, too; that takes a restart"), "it was said", alive=served.process)
