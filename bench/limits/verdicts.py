"""Pure: holds what was charged against what the engine sent. See exact.py."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LAST_MOMENT = 1.0  # seconds; the writer of the record gathers lines for 20 ms, then writes


@dataclass
class Sent:
    """What a client knows of its request: which life of which gateway had it, and when the answer was whole."""

    subject: str
    gateway: int
    life: int
    ended: float | None = None


@dataclass(frozen=True)
class Charges:
    """All sums at the end of a run. `wire`: request id → attempts, as the witness saw them."""

    lines: list[dict[str, Any]]
    sql: dict[str, int]
    redis: dict[str, int]
    unsettled: list[tuple[str, int]]
    wire: dict[str, list[dict[str, int]]]
    generated: float


def judge(charges: Charges, sent: Mapping[str, Sent], deaths: Mapping[tuple[int, int], float]) -> dict[str, Any]:
    """Figures, and what must not be. `deaths`: gateway and life → when it was killed."""
    lines = [line for line in charges.lines if line["request_id"] in sent]
    violations = [
        f"{request_id} has {count} lines"
        for request_id, count in Counter(line["request_id"] for line in lines).items()
        if count > 1
    ]
    gaps = {line["request_id"]: _gap(line, charges.wire.get(line["request_id"], []), violations) for line in lines}
    missing = {request_id: charges.wire[request_id] for request_id in charges.wire.keys() & sent - gaps.keys()}
    violations += [why for request_id in missing if (why := _not_excused(request_id, sent[request_id], deaths))]
    log = _by_subject(lines)
    if log != charges.sql:
        violations.append(f"SQL has {charges.sql}, the record {log}")
    open_ones: Counter[str] = Counter()
    for subject, tokens in charges.unsettled:
        open_ones[subject] += tokens
    settled = {subject: charged - log[subject] - open_ones[subject] for subject, charged in charges.redis.items()}
    for subject, surplus in settled.items():
        # settled, and killed before its line was written; or the other way round
        most = sum(_tokens(attempts) for request_id, attempts in missing.items() if sent[request_id].subject == subject)
        late = _by_subject(line for line in lines if _in_last_moment(sent[line["request_id"]], deaths))
        least = -late[subject] if open_ones[subject] else 0
        if not least <= surplus <= most:
            violations.append(f"Redis has {surplus} tokens more for {subject} than record and open reservations")
    completions = sum(line["completion_tokens"] for line in lines)
    on_wire = sum(_completion(attempts) for attempts in charges.wire.values())
    lost = sum(map(_completion, missing.values()))
    if charges.generated < on_wire:
        violations.append(f"the engine counted {charges.generated} tokens, and sent {on_wire}")
    if on_wire - completions - lost != sum(gaps.values()):
        violations.append("the sums do not add up")
    streams = [gaps[line["request_id"]] for line in lines if line["stream"] and line["outcome"] == "client_gone"]
    return {
        "violations": violations,
        "requests": len(sent),
        "lines": len(lines),
        "outcomes": dict(Counter(line["outcome"] for line in lines)),
        "estimated_lines": sum(line["estimated"] for line in lines),
        "charged": {
            "record": sum(log.values()),
            "sql": sum(charges.sql.values()),
            "redis": sum(charges.redis.values()),
            "redis_open_reservations_of_killed_gateways": sum(open_ones.values()),
            "redis_settled_but_killed_before_the_line": sum(settled.values()),
        },
        "completion_tokens": {
            "record": completions,
            "on_the_wire": on_wire,
            "counted_by_the_engine": int(charges.generated),
            "generated_but_never_on_the_wire": int(charges.generated - on_wire),
            "on_the_wire_after_clients_left_streams": sum(streams),
            "the_same_for_one_stream_at_most": max(streams, default=0),
            "answers_in_one_piece_whose_clients_had_left": sum(gaps.values()) - sum(streams),
            "of_killed_gateways": lost,
        },
        "killed_gateways": len(deaths),
        "requests_without_a_line": len(missing),
    }


def _gap(line: dict[str, Any], attempts: list[dict[str, int]], violations: list[str]) -> int:
    """Completion tokens that the engine sent and that are not charged: none, unless the client left."""
    gap = _completion(attempts) - line["completion_tokens"]
    left = line["outcome"] in {"client_gone", "shutdown"}
    if gap < 0 or (gap and not left):
        violations.append(f"{line['request_id']} ({line['outcome']}): the engine sent {gap} more than is charged")
    if not left and not line["estimated"] and line["prompt_tokens"] not in {0, *(a["prompt"] for a in attempts)}:
        violations.append(f"{line['request_id']}: a prompt of {line['prompt_tokens']} is charged, of {attempts}")
    if line["outcome"] == "complete" and not line["prompt_tokens"]:
        violations.append(f"{line['request_id']}: no prompt is charged")
    return gap


def _in_last_moment(sent: Sent, deaths: Mapping[tuple[int, int], float]) -> bool:
    """Whether its gateway was killed in the moment in which the request ended."""
    death = deaths.get((sent.gateway, sent.life))
    return death is not None and (sent.ended is None or death - sent.ended <= LAST_MOMENT)


def _not_excused(request_id: str, sent: Sent, deaths: Mapping[tuple[int, int], float]) -> str | None:
    death = deaths.get((sent.gateway, sent.life))
    if death is None:
        return f"{request_id} has no line, and its gateway was not killed"
    if sent.ended is not None and not _in_last_moment(sent, deaths):
        return f"{request_id} has no line, and had ended {death - sent.ended:.2f} s before its gateway was killed"
    return None


def _completion(attempts: list[dict[str, int]]) -> int:
    return sum(attempt["completion"] for attempt in attempts)


def _tokens(attempts: list[dict[str, int]]) -> int:
    return sum(attempt["prompt"] + attempt["completion"] for attempt in attempts)


def _by_subject(lines: Iterable[dict[str, Any]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for line in lines:
        if line["subject"] is not None:
            sums[line["subject"]] += line["prompt_tokens"] + line["completion_tokens"]
    return sums
