"""The prefix cache: which leading blocks of a prompt the engine has seen before."""

from __future__ import annotations

from collections import OrderedDict

BLOCK = 128
"""Tokens a block, as vLLM's CPU build has it."""


class PrefixCache:
    """Blocks known by a hash that chains over all tokens before them, least recently used dropped first.

    A `salt` starts the chain, so prompts of different salts share nothing.
    """

    def __init__(self, capacity_blocks: int = 32768) -> None:
        self._capacity = capacity_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def lookup(self, prompt: list[int], salt: str | None) -> tuple[int, list[int]]:
        """(cached tokens, the chain of the prompt's full blocks). The last token is always computed anew."""
        chain: list[int] = []
        link = hash(("salt", salt))
        for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
            link = hash((link, *prompt[start : start + BLOCK]))
            chain.append(link)
        hits = 0
        for link in chain[: max(0, len(prompt) - 1) // BLOCK]:
            if link not in self._blocks:
                break
            self._blocks.move_to_end(link)
            hits += 1
        return hits * BLOCK, chain

    def insert(self, chain: list[int]) -> None:
        """The blocks are computed now."""
        for link in chain:
            self._blocks[link] = None
            self._blocks.move_to_end(link)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
