"""How big a model is, from what lies on the disk or is known of the hub's: an estimate of what a GPU must hold.

Compared on two H200 with gpt-oss-20b: vLLM logged 6.64 GiB of weights a GPU, and 5,027,458 tokens of KV cache in
115.18 GiB, which are the 24,576 bytes a token that `Shape.kv_bytes` gives.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")  # vLLM takes the first kind that is there
_INDEX = "model.safetensors.index.json"
_BYTES_PER_VALUE = 2  # a KV cache in bfloat16, vLLM's default


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the size of the KV cache. `latent`: values per token and layer of one that is compressed (MLA)."""

    layers: int
    kv_heads: int
    head_size: int
    heads: int | None = None
    latent: int | None = None

    def kv_bytes(self, tensor_parallel: int) -> int:
        """Bytes of KV cache that one token takes on each GPU; heads that do not divide are kept on several."""
        if self.latent is not None:
            return self.layers * self.latent * _BYTES_PER_VALUE
        heads = max(self.kv_heads // tensor_parallel, 1)
        return self.layers * heads * self.head_size * 2 * _BYTES_PER_VALUE  # keys and values


@dataclass(frozen=True, slots=True)
class Model:
    """A model's size. `folder`: where its files are, None for one that is to be downloaded."""

    weight_bytes: int | None = None
    shape: Shape | None = None
    folder: Path | None = None
    missing: tuple[str, ...] = ()  # weight files that its index names and that are not there


# The sums of the safetensors files and the shapes, as the hub shows them.
_KNOWN: dict[str, Model] = {
    name: Model(int(gigabytes * 1e9), Shape(layers, kv_heads, head_size, heads))
    for name, gigabytes, layers, kv_heads, head_size, heads in (
        ("openai/gpt-oss-20b", 13.8, 24, 8, 64, 64),  # MXFP4
        ("openai/gpt-oss-120b", 65.3, 36, 8, 64, 64),  # MXFP4
        ("Qwen/Qwen2.5-7B-Instruct", 15.2, 28, 4, 128, 28),
        ("Qwen/Qwen3-4B", 8.1, 36, 8, 128, 32),
        ("Qwen/Qwen3-8B", 16.4, 36, 8, 128, 32),
        ("Qwen/Qwen3-14B", 29.5, 40, 8, 128, 40),
        ("Qwen/Qwen3-32B", 65.5, 64, 8, 128, 64),
        ("Qwen/Qwen3-30B-A3B", 61.1, 48, 4, 128, 32),
        ("meta-llama/Llama-3.1-8B-Instruct", 16.1, 32, 8, 128, 32),
        ("meta-llama/Llama-3.3-70B-Instruct", 141.1, 80, 8, 128, 64),
        ("mistralai/Mistral-7B-Instruct-v0.3", 14.5, 32, 8, 128, 32),
    )
}


def is_path(model: str) -> bool:
    """Whether this is meant as a folder rather than as a name on the hub."""
    return model.startswith(("/", "./", "../", "~")) or Path(model).is_dir()


def look_up(model: str, env: Mapping[str, str], revision: str = "main") -> Model:
    """Tell what is known of a model by path or hub name; `env` is the engine's environment."""
    folder = Path(model).expanduser() if is_path(model) else _snapshot(hub_cache(env), model, revision)
    known = _KNOWN.get(model, Model())
    if folder is None or not folder.is_dir():
        return known
    size, missing = _weights(folder)
    return Model(size or known.weight_bytes, _shape(folder) or known.shape, folder, missing)


def hub_cache(env: Mapping[str, str]) -> Path:
    """Where the hub's library puts its downloads.

    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    """
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if env.get(name):
            return Path(env[name]).expanduser() / below
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def _snapshot(cache: Path, name: str, revision: str) -> Path | None:
    """Find a finished download, laid out as https://huggingface.co/docs/huggingface_hub/guides/manage-cache says."""
    home = cache / f"models--{name.replace('/', '--')}"
    try:
        commit = (home / "refs" / revision).read_text().strip()
        folder = home / "snapshots" / commit
        whole = (folder / "config.json").exists() and not any((home / "blobs").glob("*.incomplete"))
    except OSError:
        return None
    return folder if whole else None


def _weights(folder: Path) -> tuple[int, tuple[str, ...]]:
    named: set[str] = set()
    with contextlib.suppress(OSError, ValueError, AttributeError, KeyError):
        named = set(json.loads((folder / _INDEX).read_text())["weight_map"].values())
    if named:
        missing = sorted(name for name in named if not (folder / name).exists())
        return sum(_size(folder / name) for name in named), tuple(missing)
    for pattern in _WEIGHTS:
        if size := sum(_size(file) for file in folder.glob(pattern)):
            return size, ()
    return 0, ()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _shape(folder: Path) -> Shape | None:
    """Read config.json; None when it is of a kind this does not know."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        config = config.get("text_config", config)  # models that see keep the language part in here
        heads = int(config["num_attention_heads"])
        latent = config.get("kv_lora_rank")
        return Shape(
            layers=int(config["num_hidden_layers"]),
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
            heads=heads,
            latent=None if latent is None else int(latent) + int(config.get("qk_rope_head_dim", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def download_folder(env: Mapping[str, str]) -> Path:
    """The nearest folder above the hub's cache that exists: the disk that a download fills."""
    folder = hub_cache(env).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def offline(env: Mapping[str, str]) -> bool:
    """Whether the hub may not be asked."""
    on = {"1", "ON", "YES", "TRUE"}
    return any(env.get(name, "").upper() in on for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
