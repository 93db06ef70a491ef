"""The requests that are sent."""

import json
from pathlib import Path
from typing import Any

MODEL = "gpt-oss-20b"


def write(folder: Path) -> None:
    """Write each as NAME.json: `whole`, `stream`, `stream_usage`, `long` (100 KB), `chinese` (250 messages)."""
    ask = [
        {"role": "system", "content": "You are a helpful assistant. " * 8},
        {"role": "user", "content": "Summarise the following text: " + "lorem ipsum dolor sit amet " * 17},
    ]
    bodies: dict[str, dict[str, Any]] = {
        "whole": {"messages": ask},
        "stream": {"messages": ask, "stream": True},
        "stream_usage": {"messages": ask, "stream": True, "stream_options": {"include_usage": True}},
        "long": {"messages": [{"role": "user", "content": "The quick brown fox jumps. " * 3800}]},
        "chinese": {
            "messages": [
                {
                    "role": ("user", "assistant")[number % 2],
                    "content": f"第{number}条：" + "我们讨论一下这个问题的几种解决办法。" * 8,
                }
                for number in range(250)
            ]
        },
    }
    for name, fields in bodies.items():
        body = {"model": MODEL, **fields, "max_tokens": 256, "temperature": 0.7}
        (folder / f"{name}.json").write_text(json.dumps(body, ensure_ascii=False), "utf-8")
