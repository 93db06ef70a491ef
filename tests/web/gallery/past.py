"""Words in both languages, and what the users of the gallery asked before."""

from typing import Any

WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "name": "Ada",
        "ask": "How do I sort a list of dictionaries by a key in Python?",
        "next": ["And in descending order?", "What does that cost in memory?"],
        "chats": [
            "Sorting in Python",
            "Letter to the landlord",
            "Weekend in Kyoto",
            "Regular expressions",
            "Tax return",
        ],
    },
    "zh-CN": {
        "name": "林",
        "ask": "怎样在 Python 里按某个键给字典列表排序？",
        "next": ["如果要降序呢？", "这样会占用多少内存？"],
        "chats": ["Python 排序", "给房东的信", "京都周末行程", "正则表达式", "报税问题"],
    },
}
CUT_OFF = 3  # which of the chats has an answer that is gone
ANSWER = {
    "en": (
        "Use `sorted` with a key function:\n\n```python\npeople = [{'name': 'Ada', 'age': 36}, {'name': 'Lin', 'age': 29}]\n"
        "by_age = sorted(people, key=lambda person: person['age'])\n```\n\nIt is **stable** and takes $O(n \\log n)$ "
        "comparisons.\n\n| function | changes the list | returns |\n|---|---|---|\n| `sorted(a)` | no | a new list |\n"
        "| `a.sort()` | yes | `None` |\n"
    ),
    "zh-CN": (
        "用 `sorted` 加一个键函数：\n\n```python\npeople = [{'name': 'Ada', 'age': 36}, {'name': '林', 'age': 29}]\n"
        "by_age = sorted(people, key=lambda person: person['age'])\n```\n\n**注意：**排序是稳定的，需要 $O(n \\log n)$ 次比较。\n\n"
        "| 函数 | 是否改变原列表 | 返回值 |\n|---|---|---|\n| `sorted(a)` | 否 | 新列表 |\n| `a.sort()` | 是 | `None` |\n"
    ),
}


def past(words: dict[str, Any], language: str, number: int, title: str) -> dict[str, Any]:
    """An earlier chat, as an export holds it."""
    at = 1_795_000_000.0 - number * 90_000
    common = {"reasoning": "", "finish": None, "error": None, "continues": False, "model": None, "params": {}}
    common |= {"usage": None, "ttft_ms": None, "tok_s": None, "queued_ms": None, "thought_ms": None, "created_at": at}
    usage = {"prompt_tokens": 21, "completion_tokens": 164, "cached_tokens": 0, "reasoning_tokens": 42}
    messages = [
        {**common, "id": "m_1", "parent": None, "role": "user", "content": words["ask"], "status": "done"},
        {
            **common,
            "id": "m_2",
            "parent": "m_1",
            "role": "assistant",
            "status": "done",
            "finish": "stop",
            "reasoning": words["ask"],
            "content": ANSWER[language],
            "usage": usage,
            "ttft_ms": 182.0,
            "tok_s": 87.4,
            "queued_ms": 0.0,
            "thought_ms": 1400.0,
        },
    ]
    if number == CUT_OFF:
        messages[1] |= {"status": "interrupted", "finish": None, "content": ANSWER[language][:180]}
    fields = {"title": title, "pinned": number == 2, "archived": False, "created_at": at, "updated_at": at}
    return {**fields, "params": {}, "head": "m_2", "messages": messages}
