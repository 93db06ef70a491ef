"""An estimate whether a model fits into the GPUs: weights, what vLLM needs beside them, room for the KV cache. Pure."""

from dataclasses import dataclass

from launcher.config import EngineSettings
from launcher.model import Model

_MIB = 1 << 20
_GIB = 1 << 30
# Activations, CUDA graphs and the CUDA context of one GPU: 4.5 GiB were seen on an H200, where vLLM runs batches of
# 8192 tokens; on smaller GPUs its batches are a quarter of that.
_BESIDES = 2 * _GIB
# Flags after which the sum below is another one.
_RESIZING = ("--quantization", "-q", "--kv-cache-dtype", "--cpu-offload-gb", "--dtype", "--speculative-config", "-sc")


@dataclass(frozen=True, slots=True)
class Fit:
    """One GPU's share, in bytes. `kv_bytes`: of one token, None where the model's shape is unknown."""

    weights: int
    budget: int
    max_model_len: int
    kv_bytes: int | None

    @property
    def _one_request(self) -> int:
        return (self.kv_bytes or 0) * self.max_model_len

    @property
    def impossible(self) -> bool:
        """The weights and one request of full length do not fit even with nothing beside them."""
        return self.weights + self._one_request > self.budget

    @property
    def tight(self) -> bool:
        """With what vLLM usually needs beside them they may not fit."""
        return self.weights + self._one_request + _BESIDES > self.budget

    @property
    def tokens(self) -> int | None:
        """How many tokens the KV cache will hold."""
        return None if not self.kv_bytes else max(self.budget - self.weights - _BESIDES, 0) // self.kv_bytes

    def __str__(self) -> str:
        weights, budget = self.weights / _GIB, self.budget / _GIB
        if self.impossible and self.weights <= self.budget:
            request = self._one_request / _GIB
            return (
                f"{weights:.1f} GiB of weights a GPU and {request:.1f} GiB for one request of {self.max_model_len}"
                f" tokens, of {budget:.1f} GiB that vLLM may take"
            )
        room = ""
        if self.tokens and not self.tight:
            room = f"; room for about {self.tokens:,} tokens, {self.tokens // self.max_model_len} full contexts"
        return f"{weights:.1f} GiB of weights a GPU, of {budget:.1f} GiB that vLLM may take{room}"


def fit(settings: EngineSettings, model: Model, total_mib: int) -> Fit | None:
    """Judge the model against the smallest of its GPUs; None where too little is known of it."""
    if model.weight_bytes is None or any(arg.partition("=")[0] in _RESIZING for arg in settings.extra_args):
        return None
    parallel = settings.tensor_parallel_size
    return Fit(
        weights=model.weight_bytes // parallel,
        budget=int(total_mib * _MIB * settings.gpu_memory_utilization),
        max_model_len=settings.max_model_len,
        kv_bytes=None if model.shape is None else model.shape.kv_bytes(parallel),
    )
