"""Back-off on login: guessing gets slower and slower, and nobody can shut a colleague out by guessing wrong.

Three tracks count failures: the pair of account and address, the address, the account. The pair's delay grows to a
quarter of an hour; the other two see many people, so they are looser and never stop anybody for long. A pair that has
signed in before answers to its own track only: the colleague at the usual desk gets in whatever others do.

    failures    free   then the delay doubles from 1 s up to
    pair           5   15 min
    address       50   30 s      (an office behind one address)
    account       50    5 s      (guesses spread over many addresses)

Where there is a Redis, all workers count together in it (gateway/auth/shared_throttle.py); the rules are these.

Failures are charged before the password is looked at, so that guesses sent at once count too.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.peers import network_of

MAX_TRACKS = 20_000  # of each kind; the longest unused goes first
FORGET_SECONDS = 3600
KNOWN_SECONDS = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Policy:
    """How fast one kind of track slows down. Delays in seconds."""

    free: int
    longest: float

    def delay(self, failures: int) -> float:
        """How long to wait after that many failures."""
        over = failures - self.free
        return 0.0 if over <= 0 else min(self.longest, 2.0 ** min(over - 1, 32))


PAIR = Policy(free=5, longest=900)
ADDRESS = Policy(free=50, longest=30)
ACCOUNT = Policy(free=50, longest=5)


@dataclass(slots=True)
class _Track:
    failures: int = 0
    ready_at: float = 0.0
    changed_at: float = 0.0


class _Tracks:
    """Failures by key; bounded."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._tracks: OrderedDict[str, _Track] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        track = self._tracks.get(key)
        return 0.0 if track is None else max(0.0, track.ready_at - now)

    def charge(self, key: str, now: float) -> None:
        track = self._tracks.get(key)
        if track is None or now - track.changed_at > FORGET_SECONDS:
            track = self._tracks[key] = _Track()
        track.failures += 1
        track.changed_at = now
        track.ready_at = now + self._policy.delay(track.failures)
        self._tracks.move_to_end(key)
        if len(self._tracks) > MAX_TRACKS:
            self._tracks.popitem(last=False)

    def refund(self, key: str, now: float) -> None:
        track = self._tracks.get(key)
        if track is not None:
            track.failures -= 1
            track.ready_at = min(track.ready_at, now)

    def clear(self, key: str) -> None:
        self._tracks.pop(key, None)

    def __len__(self) -> int:
        return len(self._tracks)


class BackOff(Protocol):
    """Decides when the next guess may be made."""

    async def attempt(self, account: str, address: str) -> float:
        """0: go on, and the attempt is counted as a failure until `succeeded` says otherwise. Else: seconds to wait."""
        ...

    async def succeeded(self, account: str, address: str) -> None:
        """The attempt was the real user: the pair starts afresh, the others get this one back."""
        ...


class Throttle:
    """BackOff of this process alone; times by `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs = _Tracks(PAIR)
        self._addresses = _Tracks(ADDRESS)
        self._accounts = _Tracks(ACCOUNT)
        self._known: OrderedDict[str, float] = OrderedDict()  # pair → its last success

    async def attempt(self, account: str, address: str) -> float:
        """See BackOff.attempt."""
        now = self._clock()
        network = network_of(address)
        pair = f"{network} {account}"
        wait = self._pairs.wait(pair, now)
        if not self._is_known(pair, now):
            wait = max(wait, self._addresses.wait(network, now), self._accounts.wait(account, now))
        if wait > 0:
            return wait
        self._pairs.charge(pair, now)
        self._addresses.charge(network, now)
        self._accounts.charge(account, now)
        return 0.0

    async def succeeded(self, account: str, address: str) -> None:
        """See BackOff.succeeded."""
        now = self._clock()
        network = network_of(address)
        pair = f"{network} {account}"
        self._pairs.clear(pair)
        self._addresses.refund(network, now)
        self._accounts.refund(account, now)
        self._known[pair] = now
        self._known.move_to_end(pair)
        if len(self._known) > MAX_TRACKS:
            self._known.popitem(last=False)

    def __len__(self) -> int:
        """Entries held, of all kinds."""
        return len(self._pairs) + len(self._addresses) + len(self._accounts) + len(self._known)

    def _is_known(self, pair: str, now: float) -> bool:
        since = self._known.get(pair)
        return since is not None and now - since <= KNOWN_SECONDS
