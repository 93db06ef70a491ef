"""Faults on demand: what the engine does wrong for one request, and when in that request."""

from __future__ import annotations

from launcher.simulator.knobs import Fault
from launcher.simulator.service import JSON_HEADERS, Answer

_FLUSH_SECONDS = 0.01
"""Time for what was written to leave the process before the connection or the process goes."""
_NOT_HTTP = b"\x16\x03\x01\x02 this is not HTTP\r\n\r\n"
_HALF_CHUNK = b'80\r\ndata: {"id":"cut'
_HALF_ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\ncontent-type: application/json\r\n\r\n{"id":"cut'
_BAD_FRAME = b'data: {"id": "chatcmpl-garbage", "choices": [}\n\n'
_BAD_JSON = b'{"id": "chatcmpl-garbage", "choices": ['


def run(answer: Answer, *, keep_alive: bool = False) -> None:
    """Start an answer's generations, with whatever fault the knobs hold for it."""
    service = answer.service
    fault = service.knobs.take_fault()
    answer.call.record.fault = fault
    answer.call.record.request_id = answer.id
    answer.call.record.prompt_tokens = sum(len(each.prompt) for each in answer.generations)
    if fault == "die_before_first_byte":
        service.die()
        return
    answer.watch(keep_alive=keep_alive and answer.params.stream)
    if fault == "garbage_http":
        answer.drop()
        answer.request.cut(_NOT_HTTP)
        return
    if answer.params.stream:
        answer.begin_stream()
    if fault != "none":
        _arm(answer, fault)
    for generation in answer.generations:
        service.engine.submit(generation, answer)


def _arm(answer: Answer, fault: Fault) -> None:
    service = answer.service
    first = answer.generations[0]

    def strike() -> None:
        match fault:
            case "die_mid_stream":
                service.engine.stalled = True  # nothing more is generated while the last tokens leave
                service.loop.call_later(_FLUSH_SECONDS, service.die)
            case "engine_death":
                service.engine_death()
            case "error_frame":
                _fail(answer)
            case "hang":
                service.engine.stalled = True
            case "close_mid_chunk" | "reset":
                _cut(answer, reset=fault == "reset")
            case "garbage_json":
                _garble(answer)

    first.strike = strike
    first.fault_after = max(1, service.knobs.fault_after)
    if service.knobs.fault_after <= 0:
        first.fault_after = None
        service.loop.call_soon(strike)


def _fail(answer: Answer) -> None:
    for generation in answer.generations:
        answer.service.engine.abort(generation)
    answer.failed()


def _cut(answer: Answer, *, reset: bool) -> None:
    if answer.ended:
        return
    answer.drop()
    raw = b"" if reset else (_HALF_CHUNK if answer.request.answered else _HALF_ANSWER)
    answer.service.loop.call_later(_FLUSH_SECONDS, lambda: answer.request.cut(raw, reset=reset))


def _garble(answer: Answer) -> None:
    if answer.ended:
        return
    if answer.request.answered:
        answer.request.write(_BAD_FRAME)
        return
    answer.drop()
    answer.call.record.status = 200
    answer.request.respond(200, JSON_HEADERS, _BAD_JSON)
