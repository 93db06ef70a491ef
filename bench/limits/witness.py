"""A witness on the wire between gateways and their engine: what the engine sent for each request, whoever is killed.

    .venv/bin/python -m bench.limits.witness --engine-port 8000 --journal FILE

It passes bytes on as they are, prints its own port, and at SIGTERM writes to FILE what it saw: request id → attempts,
each with the prompt and completion tokens of the last usage that the engine's answer had or, as far as it had none, of
the token ids in it. It knows nothing of the gateway's way of counting.
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
from collections import defaultdict
from pathlib import Path

import uvloop

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_REQUEST_ID = re.compile(rb"(?i)\r\nx-request-id: *([^\r\n]+)")
_FIGURE = re.compile(
    rb'"usage": ?(?P<usage>\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})'
    rb'|"(?P<of>(?:prompt_)?token_ids)": ?(?P<ids>\[[\d, ]*\])'
)


class Passage:
    """One connection of a gateway, and its own to the engine; requests follow each other on it."""

    def __init__(self, seen: dict[str, list[dict[str, int]]]) -> None:
        self._seen = seen
        self._head = b""
        self._body_left = 0
        self._answer = b""
        self._attempt: dict[str, int] | None = None

    def asked(self, data: bytes) -> None:
        """Follow the requests: where each begins, and whose it is."""
        while data:
            if self._body_left:
                taken = min(self._body_left, len(data))
                self._body_left -= taken
                data = data[taken:]
                continue
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head, self._answer = b"", b""
            length, request_id = _LENGTH.search(head), _REQUEST_ID.search(head)
            self._body_left = int(length[1]) if length else 0
            self._attempt = {"prompt": 0, "completion": 0} if request_id else None
            if request_id and self._attempt is not None:
                self._seen[request_id[1].decode()].append(self._attempt)

    def answered(self, data: bytes) -> None:
        """Follow the answer: the figures in it."""
        if self._attempt is None:
            return
        self._answer += data
        end = 0
        for found in _FIGURE.finditer(self._answer):
            end = found.end()
            if found["usage"]:
                usage = json.loads(found["usage"])
                self._attempt["prompt"] = usage["prompt_tokens"]
                self._attempt["completion"] = usage.get("completion_tokens", 0)
            elif found["of"] == b"token_ids":
                self._attempt["completion"] += len(json.loads(found["ids"]))
            else:
                self._attempt["prompt"] = len(json.loads(found["ids"]))
        self._answer = self._answer[end:]


async def main(engine_port: int) -> dict[str, list[dict[str, int]]]:
    """Pass on until SIGTERM; what was seen."""
    seen: dict[str, list[dict[str, int]]] = defaultdict(list)
    open_ones: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        task.add_done_callback(open_ones.discard)
        passage = Passage(seen)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", engine_port)
        except OSError:
            writer.close()
            return

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: object) -> None:
            assert callable(note)
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    note(data)
                    sink.write(data)
                    await sink.drain()

        pumps = [
            asyncio.create_task(pump(reader, there_writer, passage.asked)),
            asyncio.create_task(pump(there_reader, writer, passage.answered)),
        ]
        with contextlib.suppress(asyncio.CancelledError):  # asyncio.streams of 3.11 reports it as an error
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for sink in (there_writer, writer):
            sink.close()

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()
    for task in open_ones:
        task.cancel()
    await asyncio.gather(*open_ones, return_exceptions=True)
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine-port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    asked = parser.parse_args()
    asked.journal.write_text(json.dumps(uvloop.run(main(asked.engine_port))))
