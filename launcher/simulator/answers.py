"""What the simulated engine says: answers worth reading in a demo, in the language of the question.

Every answer says that it is simulated. Same prompt and seed, same answer.
"""

from __future__ import annotations

import random
import re

_CJK = re.compile(r"[\u3400-\u9fff]")
_QUOTED = 60


def answer(question: str, seed: int) -> tuple[str, str]:
    """(reasoning, answer in Markdown) to `question`."""
    chinese = bool(_CJK.search(question))
    choose = random.Random(seed)  # noqa: S311  # variety, not secrecy
    book = _CHINESE if chinese else _ENGLISH
    asked = " ".join(question.split())
    asked = asked[:_QUOTED] + ("…" if len(asked) > _QUOTED else "")
    body = [choose.choice(part) for part in (book["list"], book["code"], book["table"])]
    choose.shuffle(body)
    parts = [choose.choice(book["opening"]), *body, choose.choice(book["closing"])]
    thought = choose.choice(book["reasoning"])
    return thought.replace("{asked}", asked), "\n\n".join(parts).replace("{asked}", asked)


def completion(seed: int) -> str:
    """A continuation for /v1/completions."""
    choose = random.Random(seed)  # noqa: S311
    return (
        " "
        + choose.choice(_ENGLISH["opening"]).replace("{asked}", "your text")
        + "\n\n"
        + choose.choice(_ENGLISH["list"])
    )


_ENGLISH: dict[str, list[str]] = {
    "reasoning": [
        'The user asks: "{asked}". I am the simulated engine, so I should say so plainly and still give an answer'
        " with enough structure to show how streaming, Markdown and token counts look.",
        'We need to answer "{asked}". There is no model behind me. A short greeting, a list, some code and a table'
        " will exercise the interface well.",
        'Question: "{asked}". As a simulated engine I know nothing about it; I will describe what this'
        " installation does instead, and keep the tone helpful.",
    ],
    "opening": [
        "**This is the simulated engine** – no language model is running here. You wrote “{asked}”, and a real model"
        " would now answer it. I can at least show you what an answer looks like on the way from the engine through"
        " the gateway to you.",
        "Thanks for trying this out! I am the **simulated engine**, so I cannot really answer “{asked}”. Everything"
        " around me is real though: the login, the limits, the token counts and the stream you are reading.",
        "You asked “{asked}”. I am only a **simulated engine** that speaks vLLM's protocol, so please take the"
        " following as sample text rather than as an answer.",
    ],
    "list": [
        "What happened with your request, step by step:\n\n"
        "1. The gateway checked who you are and what your plan allows.\n"
        "2. It reserved tokens for the prompt and for the longest answer.\n"
        "3. The engine queued the request, lowest priority number first.\n"
        "4. Each token went out in the step that made it, and was counted once.",
        "A few things to try next:\n\n"
        "- Press **Stop** in the middle of an answer: the engine frees its slot at once.\n"
        "- Open a second window and ask again: both streams share the engine.\n"
        "- Ask in Chinese, and the answer is Chinese.\n"
        "- Look at the usage page: the numbers are exact.",
        "Good answers tend to share some habits:\n\n"
        "- they start with the result,\n"
        "- they name what they are not sure about,\n"
        "- they end when there is nothing left to say.",
    ],
    "code": [
        "The same request from Python:\n\n```python\nfrom openai import OpenAI\n\n"
        'client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key=token)\n'
        "stream = client.chat.completions.create(\n"
        '    model="gpt-oss-20b",\n    messages=[{"role": "user", "content": "Hello"}],\n    stream=True,\n)\n'
        'for chunk in stream:\n    print(chunk.choices[0].delta.content or "", end="")\n```',
        "A small function, so that there is some code to look at:\n\n```python\ndef fibonacci(n: int) -> list[int]:\n"
        "    numbers = [0, 1]\n    while len(numbers) < n:\n        numbers.append(numbers[-1] + numbers[-2])\n"
        "    return numbers[:n]\n```",
        "From a shell it looks like this:\n\n```bash\ncurl -N http://127.0.0.1:8080/v1/chat/completions \\\n"
        '  -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\\n'
        '  -d \'{"model": "gpt-oss-20b", "stream": true,\n       "messages": [{"role": "user", "content": "Hello"}]}\'\n```',
    ],
    "table": [
        "| Part | Real here? |\n| --- | --- |\n| Gateway, limits, log | yes |\n| Metrics and token counts | yes |\n"
        "| Language model | no, simulated |",
        "| Measure | Meaning |\n| --- | --- |\n| TTFT | time to first token |\n| tokens/s | speed of one stream |\n"
        "| queue | time spent waiting for a slot |",
        "| n | square | cube |\n| ---: | ---: | ---: |\n| 2 | 4 | 8 |\n| 3 | 9 | 27 |\n| 4 | 16 | 64 |",
    ],
    "closing": [
        "To get real answers, install vLLM, point the configuration at a model and start again without the demo"
        " option. Nothing else changes.",
        "That is all a simulated engine can offer. With a GPU and a model in my place, the text would be worth more;"
        " the way it reaches you would be the same.",
        "If something in this answer looked wrong on your screen, that is worth knowing: rendering, streaming and"
        " counting are exactly what the demo is for.",
    ],
}

_CHINESE: dict[str, list[str]] = {
    "reasoning": [
        "用户的问题是“{asked}”。我只是模拟引擎，应当先说明这一点，再给出一段结构完整的示例文字，方便查看流式输出和计数。",
        "需要回答“{asked}”。这里没有真正的模型，我会用列表、代码和表格来展示界面的效果。",
    ],
    "opening": [
        "**这里是模拟引擎**，并没有真正的语言模型在运行。您写道“{asked}”，真实的模型会在此作答；我只能让您看到，一段回答是怎样从引擎经过网关来到您面前的。",
        "感谢试用！我是**模拟引擎**，无法真正回答“{asked}”。不过我周围的一切都是真的：登录、限额、令牌计数，还有您正在阅读的这条流。",
    ],
    "list": [
        "您的请求经过了这几步：\n\n1. 网关确认您的身份和套餐。\n2. 为提示词和最长的回答预留令牌。\n3. 引擎按优先级排队，数字小的先执行。\n4. 每个令牌在生成的同一步发出，并且只计一次。",
        "接下来可以试试：\n\n- 在回答中途按**停止**，引擎会立即释放位置。\n- 再开一个窗口提问，两条流共享同一个引擎。\n- 用英文提问，回答就是英文。",
    ],
    "code": [
        '用 Python 发出同样的请求：\n\n```python\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key=token)\n'
        'answer = client.chat.completions.create(\n    model="gpt-oss-20b",\n    messages=[{"role": "user", "content": "你好"}],\n)\nprint(answer.choices[0].message.content)\n```',
        "一小段示例代码：\n\n```python\ndef fibonacci(n: int) -> list[int]:\n    numbers = [0, 1]\n    while len(numbers) < n:\n"
        "        numbers.append(numbers[-1] + numbers[-2])\n    return numbers[:n]\n```",
    ],
    "table": [
        "| 部分 | 是否真实 |\n| --- | --- |\n| 网关、限额、日志 | 是 |\n| 指标与令牌计数 | 是 |\n| 语言模型 | 否，仅为模拟 |",
        "| 指标 | 含义 |\n| --- | --- |\n| TTFT | 首个令牌的时间 |\n| tokens/s | 单条流的速度 |\n| 排队 | 等待空位的时间 |",
    ],
    "closing": [
        "想要真正的回答，请安装 vLLM，在配置里指定模型，然后去掉演示选项重新启动，其他都不用改。",
        "模拟引擎能做的就是这些。换上显卡和模型之后，文字会更有价值，而它到达您面前的方式完全一样。",
    ],
}
