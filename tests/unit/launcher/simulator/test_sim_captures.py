"""Every recorded request, replayed against the simulator: same status, headers, JSON shape and event order.

A shape is the keys in their order and the types of the values. Left out of the comparison, and why:
texts, ids, times and numbers (nothing there is fixed); how often an event repeats (a token may be one chunk or
two); how the chunks of several choices interleave; the bytes of a token (none where it is half a character); in
Harmony captures, whether the text is reasoning or answer (the recorded model sometimes skipped reasoning).
What could not be replayed as it stands is in ADAPTED and NOT_REPLAYED.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import simulator

FIXTURES = Path(__file__).parents[3] / "fixtures" / "vllm"
PLAIN = ("--served-model-name", "gpt-oss-20b", "--max-model-len", "2048", "--sim-reasoning", "false")
FLAGGED = (
    *PLAIN,
    "--enable-request-id-headers",
    "--enable-prompt-tokens-details",
    "--enable-force-include-usage",
    "--root-path",
    "/gw",
    "--api-key",
    "sk-one",
    "sk-two",
)
HARMONY = (*PLAIN[:4],)
SERVERS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "cap": (PLAIN, {}),
    "cap_flags": (FLAGGED, {"VLLM_SERVER_DEV_MODE": "1"}),
    "cap_gptoss": (HARMONY, {}),
    "cap_harmony": ((*HARMONY, "--sim-hidden-tokens", "3"), {}),
}
LONG = json.dumps({"messages": [{"role": "user", "content": "os " * 3000}]})
ADAPTED = {
    # the recorded body was a file that was not kept
    "cap/err_long_prompt.txt": LONG,
    "cap/err_long_prompt_stream.txt": LONG[:-1] + ',"stream":true}',
    "cap/err_long_prompt_comp.txt": json.dumps({"prompt": "os " * 3000}),
    # the recorded model had finished by itself; the simulated answer is longer than the recorded limit
    "cap_harmony/chat_s1.txt": '{"messages":[{"role":"user","content":"hi"}],"max_tokens":2000,"seed":3}',
    "cap_harmony/chat_s1_stream.txt": '{"messages":[{"role":"user","content":"hi"}],"seed":3,"stream":true}',
    "cap_harmony/resp_stream.txt": '{"input":"hi","stream":true}',
    "cap_harmony/msg.txt": '{"max_tokens":2000,"messages":[{"role":"user","content":"hi"}]}',
}
NOT_REPLAYED = {
    "cap/metrics_after.txt": "compared series by series in test_metrics_series",
    "cap_flags/cached_1.txt": "hits depend on the order; see test_sim_engine",
    "cap_flags/cached_2.txt": "hits depend on the order; see test_sim_engine",
    "cap_flags/cached_after_reset.txt": "hits depend on the order; see test_sim_engine",
}
LAST = 1 << 20
CAPTURES = sorted(str(path.relative_to(FIXTURES)) for path in FIXTURES.glob("*/*.txt"))


@dataclass
class Recorded:
    """A recorded request and what came back."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: str | None
    status: int
    names: list[str]
    answer: str


def recorded(name: str) -> Recorded:
    text = (FIXTURES / name).read_text()
    command, _, rest = text.partition("\n")
    parts = re.split(r" (?=-[XHd] |-d$)", command)
    url = re.search(r"http://127\.0\.0\.1:18000(\S*)", command)
    assert url is not None
    headers, body, method = [], None, "HEAD" if " -I " in command else "GET"
    for part in parts[1:]:
        value = part[3:]
        match part[:2]:
            case "-X":
                method = value.split(" ")[0]
            case "-H":
                key, _, content = value.partition(":")
                if content.strip():
                    headers.append((key, content.strip()))
            case "-d":
                body = value
    if body is not None and " -X " not in command:
        method = "POST"
    if body is not None and not any(key.lower() == "content-type" for key, _ in headers):
        implicit = "application/x-www-form-urlencoded"
        if "Content-Type:" not in command:
            headers.append(("Content-Type", implicit))
    head, _, answer = rest.partition("\n\n")
    lines = head.splitlines()
    names = [line.split(":")[0].lower() for line in lines[1:]]
    answer = re.sub(r"\s*\[curl rc 0\]\s*$", "", answer)
    return Recorded(method, url[1], headers, ADAPTED.get(name, body), int(lines[0].split()[1]), names, answer)


async def replay(port: int, request: Recorded) -> tuple[int, list[str], str]:
    """Send the request over a socket of our own, to see the answer as it stands on the wire."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = (request.body or "").encode()
    lines = [f"{request.method} {request.path} HTTP/1.1", "Host: engine"]
    lines += [f"{key}: {value}" for key, value in request.headers]
    if request.body is not None:
        lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    names = [line.split(":")[0] for line in head[1:-1] if line]
    fields = {line.split(":")[0]: line.partition(":")[2].strip() for line in head[1:-1] if line}
    answer = b""
    if request.method == "HEAD":
        pass
    elif "content-length" in fields:
        answer = await reader.readexactly(int(fields["content-length"]))
    else:
        while size := int(await reader.readline(), 16):
            answer += await reader.readexactly(size)
            await reader.readexactly(2)
    writer.close()
    await writer.wait_closed()
    return int(head[0].split()[1]), names, answer.decode()


def shape(value: Any) -> Any:
    """Keys in order and types; equal neighbours in a list count once."""
    if isinstance(value, dict):
        return [(key, "bytes" if key == "bytes" else shape(each)) for key, each in value.items()]
    if isinstance(value, list):
        shapes = [shape(each) for each in value]
        return ["list", *(each for at, each in enumerate(shapes) if at == 0 or each != shapes[at - 1])]
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text"


def events(answer: str, *, harmony: bool) -> list[Any]:
    """The shape of each event, choice by choice, runs of one shape taken together."""
    by_choice: list[tuple[int, Any]] = []
    for block in answer.strip().split("\n\n"):
        lines = block.split("\n")
        name = next((line[7:] for line in lines if line.startswith("event: ")), None)
        data = next(line[6:] for line in lines if line.startswith("data: "))
        value = data if data == "[DONE]" else json.loads(data)
        choices = value.get("choices") if isinstance(value, dict) else None
        place = choices[0]["index"] if choices else (LAST if choices == [] or data == "[DONE]" else 0)
        by_choice.append((place, [name, value if data == "[DONE]" else shape(as_text(value, harmony=harmony))]))
    found: list[Any] = []
    for _, each in sorted(by_choice, key=lambda entry: entry[0]):
        if not found or found[-1] != each:
            found.append(each)
    return found


def as_text(value: Any, *, harmony: bool) -> Any:
    """In Harmony captures reasoning and answer count as the same thing."""
    if not harmony:
        return value
    for choice in value.get("choices", []):
        delta = choice.get("delta", {})
        if "reasoning" in delta:
            choice["delta"] = {"content": delta["reasoning"]}
        if "message" in choice:
            choice["message"] |= {"content": "", "reasoning": None}
    return value


@pytest.mark.parametrize("folder", sorted(SERVERS))
async def test_replay(folder: str) -> None:
    """Each recorded request of one recorded server gets an answer of the recorded shape."""
    flags, env = SERVERS[folder]
    names = [name for name in CAPTURES if name.startswith(folder + "/") and name not in NOT_REPLAYED]
    assert names
    wrong = []
    async with simulator(*flags, env=env) as engine:
        for name in names:
            request = recorded(name)
            status, headers, answer = await replay(engine.port, request)
            wrong += [f"{name}: {what}" for what in differences(name, request, status, headers, answer)]
    assert not wrong, "\n".join(wrong)


def differences(name: str, request: Recorded, status: int, headers: list[str], answer: str) -> list[str]:
    found = []
    harmony = name.startswith("cap_harmony")
    if status != request.status:
        found.append(f"status {status}, recorded {request.status}: {answer[:300]}")
    if headers != request.names:
        found.append(f"headers {headers}, recorded {request.names}")
    if "transfer-encoding" in request.names:
        ours, theirs = events(answer, harmony=harmony), events(request.answer, harmony=harmony)
        if name == "cap_harmony/resp_stream.txt":
            ours, theirs = first_item(ours), first_item(theirs)
        if ours != theirs:
            found.append(f"events\n  {ours}\nrecorded\n  {theirs}")
    elif request.answer.startswith(("{", "[")):
        mine, theirs = json.loads(answer), json.loads(request.answer)
        if status >= 400 and name not in ADAPTED:
            if mine != theirs:
                found.append(f"error {mine}, recorded {theirs}")
        elif name == "cap_harmony/resp.txt" and mine.pop("output") and not theirs.pop("output"):
            found.append("no output")  # the recorded model answered without reasoning, so the items differ
        elif shape(as_text(mine, harmony=harmony)) != shape(as_text(theirs, harmony=harmony)):
            found.append(f"shape\n  {shape(mine)}\nrecorded\n  {shape(theirs)}")
    elif answer != request.answer:
        found.append(f"body {answer!r}, recorded {request.answer!r}")
    return found


def first_item(shapes: list[Any]) -> list[Any]:
    """Up to the first item's end: the recorded model reasoned twice and never answered."""
    names = [each[0] for each in shapes]
    return shapes[: names.index("response.output_item.done") + 1]


async def test_metrics_series() -> None:
    """Every `vllm:` series vLLM exposed is exposed, with its labels, type and buckets; none is added.

    Label values of cache_config_info (the machine's configuration) and python_*, process_* and http_* (uvicorn's
    instrumentation) are left out.
    """
    ours, theirs = set(), series((FIXTURES / "cap/metrics_after.txt").read_text())
    async with simulator(*PLAIN) as engine, engine.http.get(engine.url + "/metrics") as answer:
        ours = series(await answer.text())
    assert ours == theirs


def series(text: str) -> set[str]:
    found = set()
    for line in text.splitlines():
        if line.startswith("# TYPE vllm:"):
            found.add(line)
        elif line.startswith("vllm:cache_config_info"):
            found.add("vllm:cache_config_info")
        elif line.startswith("vllm:"):
            found.add(line.rsplit(" ", 1)[0])
    return found
