"""Why an engine ended, in words for the person who must act, and whether a new try can help. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# vLLM's and its libraries' own messages (0.25 to 0.32). The first that is found in the last lines names the reason.
_FATAL = [
    re.compile(pattern)
    for pattern in (
        r"error: unrecognized arguments: .*",
        r"error: argument .*",
        r"HFValidationError: .*",
        r"RepositoryNotFoundError: .*",
        r"GatedRepoError: .*",
        r"LocalEntryNotFoundError: .*",
        r"OSError: .* is not a valid model identifier.*",
        r"OSError: .* does not appear to have a file named .*",
        r"ValueError: .*(model type|architectures?) .*(not recogni[sz]e|not supported).*",
        r"Value error, .*",  # pydantic: the message of vLLM's own check of its configuration
        r"ValueError: .*(kv cache|KV cache|cache blocks|max seq len).*",
        r"ValueError: .*(divisible|tensor.parallel).*",
        r"ModuleNotFoundError: .*",
        r"PackageNotFoundError: .*",
    )
]
_TRANSIENT = [
    re.compile(pattern)
    for pattern in (
        r"OSError: \[Errno 98\] .*",
        r"ValueError: Free memory on device .*",  # somebody else holds the GPU; they may let go
        r"(torch\.)?(cuda\.)?OutOfMemoryError: .*",
        r"RuntimeError: NCCL error.*",
        r"(ConnectionError|ReadTimeout|HfHubHTTPError)\S*: .*",
    )
]
_LAST_ERROR = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception): .+)")
_BAD_USAGE = 2
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason in one line; `fatal`: the same settings would fail the same way."""

    reason: str
    fatal: bool


def explain(what: str, exit_code: int | None, tail: Sequence[str]) -> Failure:
    """Say why the engine ended during its start; `what` is said when its last lines tell nothing more."""
    for patterns, fatal in ((_TRANSIENT, False), (_FATAL, True)):
        for line in reversed(tail):
            for pattern in patterns:
                if found := pattern.search(line):
                    return Failure(f"{what}: {found[0][:_LONGEST]}", fatal)
    if exit_code == _BAD_USAGE:
        return Failure(f"{what}: {tail[-1][:_LONGEST] if tail else 'bad usage'}", fatal=True)
    for line in reversed(tail):
        if found := _LAST_ERROR.search(line):
            return Failure(f"{what}: {found[1][:_LONGEST]}", fatal=False)
    return Failure(what, fatal=False)
