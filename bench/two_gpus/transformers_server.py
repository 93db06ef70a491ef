"""What one has without an inference engine: plain Transformers, spread over the GPUs by accelerate, a thread a request.

usage: python transformers_server.py MODEL_FOLDER --port PORT [--layers N] [--dtype bfloat16]

Speaks as much of POST /v1/completions as a benchmark needs. Weights are random: the folder has no others.
Its GPU memory is what a user of bfloat16 weights sees (Transformers needs a kernel from a hub to keep MXFP4).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from typing import Any

import torch
from aiohttp import web
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class Queue(BaseStreamer):
    """Hands each generated token over to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.tokens, self._prompt_seen = loop, asyncio.Queue[int | None](), False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:  # `generate` hands the prompt in first
            self._prompt_seen = True
            return
        self._loop.call_soon_threadsafe(self.tokens.put_nowait, int(value.flatten()[-1]))

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self.tokens.put_nowait, None)


def load(folder: str, layers: int | None, dtype: str) -> Any:
    """A model with random weights, spread over what there is."""
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = None
    del config.quantization_config
    if layers is not None:
        config.num_hidden_layers, config.layer_types = layers, config.layer_types[:layers]
    first = "cuda:0" if torch.cuda.is_available() else "cpu"
    with torch.device(first):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    if (gpus := torch.cuda.device_count()) > 1:
        from accelerate import dispatch_model, infer_auto_device_map  # noqa: PLC0415 - only there

        weight = sum(each.numel() * each.element_size() for each in model.parameters())
        room = dict.fromkeys(range(gpus), int(weight / gpus * 1.1))
        places = infer_auto_device_map(model, room, no_split_module_classes=["GptOssDecoderLayer"])
        model = dispatch_model(model, places)
        torch.cuda.empty_cache()
    return model.eval()


def application(folder: str, layers: int | None, dtype: str) -> web.Application:
    model, tokenizer = load(folder, layers, dtype), AutoTokenizer.from_pretrained(folder)

    def generate(inputs: Any, tokens: int, streamer: Queue) -> None:
        try:
            with torch.inference_mode():
                model.generate(
                    **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, streamer=streamer,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
        except Exception:
            streamer.end()  # without it the caller would wait for ever for a request that ran out of memory
            raise

    async def completions(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        inputs = tokenizer(body["prompt"], return_tensors="pt").to(model.device)
        streamer = Queue(asyncio.get_running_loop())
        threading.Thread(target=generate, args=(inputs, body["max_tokens"], streamer), daemon=True).start()
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        count = 0
        while (token := await streamer.tokens.get()) is not None:
            count += 1
            event = {"object": "text_completion", "choices": [{"index": 0, "text": tokenizer.decode([token]) or " "}]}
            await answer.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if count < body["max_tokens"]:
            return answer  # cut off: the load generator counts it as failed
        usage = {"prompt_tokens": inputs["input_ids"].shape[1], "completion_tokens": count}
        await answer.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
        return answer

    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/completions", completions)
    app.router.add_get("/health", health)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    began = time.monotonic()
    served = application(options.model, options.layers, options.dtype)
    print(f"loaded after {time.monotonic() - began:.1f} s", flush=True)
    web.run_app(served, host="127.0.0.1", port=options.port, print=None)
