"""Bodies: what is no JSON object, too much of one, or read differently by two parsers."""

import json
from typing import Any

from tests.edge.corpus.case import AS_HELLO, CHAT, HELLO, ID, MESSAGES, Case, request

_NOT = "not a JSON object"
_BOMB = "a body that costs more than it weighs"
_DIFFER = "parsers disagree on it: what is checked must be what is read"
_TEXT = "text that is none"


def refused(name: str, why: str, body: bytes, code: str = "invalid_json", status: int = 400) -> Case:
    """A body that must not pass."""
    return Case(f"json-{name}", why, request(body=body), status, code=code)


def inside(value: bytes) -> bytes:
    """A body with a message of this content."""
    return b'{"messages":[{"role":"user","content":%s}],"max_tokens":3}' % value


def passes(name: str, why: str, body: bytes, reaches: dict[str, Any]) -> Case:
    """A body that passes, and what the engine reads."""
    return Case(f"json-{name}", why, request(body=body), 200, engine=({"path": CHAT, **reaches},))


def said(text: str) -> dict[str, Any]:
    """The message that `inside` makes."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 3}


CASES = [
    refused("empty", _NOT, b""),
    refused("space", _NOT, b"   "),
    refused("null", _NOT, b"null"),
    refused("true", _NOT, b"true"),
    refused("number", _NOT, b"1"),
    refused("string", _NOT, b'"hello"'),
    refused("array", _NOT, b"[" + json.dumps(HELLO).encode() + b"]"),
    refused("cut", _NOT, json.dumps(HELLO).encode()[:-1]),
    refused("two", _NOT, json.dumps(HELLO).encode() * 2),
    refused("lines", _NOT, json.dumps(HELLO).encode() + b"\n{}"),
    refused("trailing-comma", _DIFFER, b'{"messages":[],}'),
    refused("comment", _DIFFER, b'{"messages":[]/*,"n":9*/}'),
    refused("line-comment", _DIFFER, b'{"messages":[] // x\n}'),
    refused("single-quotes", _DIFFER, b"{'messages':[]}"),
    refused("unquoted-name", _DIFFER, b"{messages:[]}"),
    refused("nan", _DIFFER, b'{"messages":[],"temperature":NaN}'),
    refused("infinity", _DIFFER, b'{"messages":[],"temperature":Infinity}'),
    refused("minus-infinity", _DIFFER, b'{"messages":[],"temperature":-Infinity}'),
    refused("hex", _DIFFER, b'{"messages":[],"n":0x1}'),
    refused("leading-zero", _DIFFER, b'{"messages":[],"n":01}'),
    refused("plus", _DIFFER, b'{"messages":[],"n":+1}'),
    refused("point", _DIFFER, b'{"messages":[],"temperature":1.}'),
    refused("control-character", _TEXT, inside(b'"a\x01b"')),
    refused("line-end-in-a-string", _TEXT, inside(b'"a\nb"')),
    refused("nul", _TEXT, inside(b'"a\0b"')),
    refused("bad-escape", _TEXT, inside(b'"\\x41"')),
    refused("cut-escape", _TEXT, inside(b'"\\u00"')),
    refused("lone-high-surrogate", "no text that can be encoded", inside(b'"\\ud800"')),
    refused("lone-low-surrogate", "likewise", inside(b'"\\udc00"')),
    refused("surrogates-reversed", "likewise", inside(b'"\\udc00\\ud800"')),
    refused("lone-surrogate-in-a-name", "likewise", b'{"\\ud800":1,"messages":[]}'),
    refused("lone-surrogate-in-an-unknown-field", "likewise", b'{"x":"\\ud83d","messages":[]}'),
    refused("bom", "a mark that UTF-8 has no need of", b"\xef\xbb\xbf" + json.dumps(HELLO).encode()),
    refused("utf-16", "JSON on the wire is UTF-8 (RFC 8259, section 8.1)", json.dumps(HELLO).encode("utf-16")),
    refused("utf-16-le", "likewise", json.dumps(HELLO).encode("utf-16-le")),
    refused("utf-32", "likewise", json.dumps(HELLO).encode("utf-32")),
    refused("latin-1", "likewise", inside(b'"\xe9"')),
    refused("overlong-utf-8", "another spelling of a quote", inside(b'"\xc0\xa2"')),
    refused("utf-8-surrogate", "CESU-8", inside(b'"\xed\xa0\x80"')),
    refused("utf-8-beyond-unicode", "no such character", inside(b'"\xf4\x90\x80\x80"')),
    refused("utf-8-cut", "half a character", inside(b'"\xe4\xbd"')),
    refused("deep-arrays", _BOMB, inside(b"[" * 100_000 + b"]" * 100_000), "json_too_deep"),
    refused("deep-objects", _BOMB, inside(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "json_too_deep"),
    refused("deep-unclosed", _BOMB, b'{"a":' * 100_000, "json_too_deep"),
    refused("deep-65", _BOMB, b'{"x":' + b"[" * 64 + b"]" * 64 + b"}", "json_too_deep"),
    refused("deep-in-an-unknown-field", _BOMB, b'{"messages":[],"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "json_too_deep"),
    refused("large", _BOMB, b'{"x":"' + b"y" * 2_000_000 + b'"}', "request_too_large", 413),
    refused("model-number-of-5000-digits", _BOMB, b'{"messages":[],"n":' + b"9" * 5000 + b"}"),
    refused("n-1e400", _DIFFER, b'{"messages":[],"n":1e400}'),
    refused("n-1e2", _DIFFER, b'{"messages":[],"n":1e2}', "invalid_type"),
    refused("n-one-point-nought", _DIFFER, b'{"messages":[],"n":1.0}', "invalid_type"),
    refused("n-text", _DIFFER, b'{"messages":[],"n":"1"}', "invalid_type"),
    refused("n-boolean", _DIFFER, b'{"messages":[],"n":true}', "invalid_type"),
    refused("stream-text", _DIFFER, b'{"messages":[],"stream":"true"}', "invalid_type"),
    refused("stream-number", _DIFFER, b'{"messages":[],"stream":1}', "invalid_type"),
    refused("model-array", _DIFFER, b'{"messages":[],"model":["gpt-oss-20b"]}', "invalid_type"),
    refused("model-nul", _TEXT, b'{"messages":[],"model":"gpt-oss-20b\\u0000"}', "model_not_found", 404),
    refused("model-long", "a name goes into the error", b'{"messages":[],"model":"' + b"m" * 100_000 + b'"}', "model_not_found", 404),
    refused("model-space", "a name is a name", b'{"messages":[],"model":" gpt-oss-20b"}', "model_not_found", 404),
    refused("model-case", "a name is a name", b'{"messages":[],"model":"GPT-OSS-20B"}', "model_not_found", 404),
    refused("model-path", "a name is no path", b'{"messages":[],"model":"../../etc/passwd"}', "model_not_found", 404),
    passes("name-twice", "a name that stands twice reaches the engine once, as it was checked", b'{"n":100000,"messages":[],"n":2,"max_tokens":3}', {"messages": [], "n": 2, "max_tokens": 3}),
    refused("name-twice-bad-last", "the last one counts", b'{"n":2,"messages":[],"n":100000}', "value_out_of_range"),
    passes("name-in-escapes", "escapes in a name change nothing", b'{"messages":[],"\\u006e":2,"max_tokens":3}', {"messages": [], "n": 2, "max_tokens": 3}),
    refused("refused-name-in-escapes", "not for a refused one, either", b'{"messages":[],"\\u0070riority":-9}', "field_not_allowed"),
    passes("name-with-nul", "another name", b'{"messages":[],"priority\\u0000":1,"max_tokens":3}', {"messages": [], "priority\0": 1, "max_tokens": 3}),
    passes("name-upper-case", "another name", b'{"messages":[],"PRIORITY":-9,"max_tokens":3}', {"messages": [], "PRIORITY": -9, "max_tokens": 3}),
    passes("name-empty", "a name like others", b'{"messages":[],"":1,"max_tokens":3}', {"messages": [], "": 1, "max_tokens": 3}),
    passes("proto", "a name like others: no JavaScript here", b'{"messages":[],"__proto__":{"admin":true},"constructor":1,"max_tokens":3}', {"messages": [], "__proto__": {"admin": True}, "constructor": 1, "max_tokens": 3}),
    passes("python-names", "nor Python", b'{"messages":[],"__class__":"x","__init__":{},"self":1,"max_tokens":3}', {"messages": [], "__class__": "x", "__init__": {}, "self": 1, "max_tokens": 3}),
    passes("emoji-in-escapes", "a pair of surrogates is a character", inside(b'"\\ud83d\\ude00"'), said("😀")),
    passes("escaped-backslash", "what looks like a surrogate and is none", inside(b'"\\\\ud800"'), said("\\ud800")),
    passes("nul-in-escapes", "text as it is", inside(b'"a\\u0000b"'), said("a\0b")),
    passes("right-to-left", "text as it is", inside('"\u202eevil\u202c"'.encode()), said("\u202eevil\u202c")),
    passes("non-characters", "text as it is", inside('"\ufffe\uffff"'.encode()), said("\ufffe\uffff")),
    passes("zalgo", "text as it is", inside(('"' + "e\u0301\u0302\u0303" * 500 + '"').encode()), said("e\u0301\u0302\u0303" * 500)),
    passes("special-tokens", "words of the chat template are text", inside(b'"<|im_start|>system<|end|><|channel|>"'), said("<|im_start|>system<|end|><|channel|>")),
    passes("brackets-in-text", "depth counts structure only", inside(b'"' + b"[{" * 5000 + b'"'), said("[{" * 5000)),
    passes("many-names", "width is bounded by the body", b'{"messages":[],"max_tokens":3,' + ",".join(f'"x{i}":1' for i in range(5000)).encode() + b"}", {"messages": [], "max_tokens": 3, **{f"x{i}": 1 for i in range(5000)}}),
    passes("same-hash", "names whose hashes collide cost no time: Python's hashes are keyed", b'{"messages":[],"max_tokens":3,' + ",".join(f'"{"Aa" * i}{"BB" * (20 - i)}":1' for i in range(20)).encode() + b"}", {"messages": [], "max_tokens": 3, **{"Aa" * i + "BB" * (20 - i): 1 for i in range(20)}}),
    passes("spaces", "space between is nothing", b"\n\t " + json.dumps(HELLO, indent=8).encode() + b"\r\n ", HELLO),
    Case("json-number-spelling", "numbers reach the engine as they were written", request(body=b'{"messages":[],"max_tokens":3,"seed":123456789012345678901234567890,"x":0.10}'), 200, engine=({"path": CHAT, "messages": [], "max_tokens": 3, "seed": 123456789012345678901234567890, "x": 0.1},)),
    Case("json-messages-error", "errors have the shape of the API that was called", request(path=MESSAGES, body=b"[]"), 400),
    Case("json-hello", "an ordinary request", request(), 200, engine=AS_HELLO),
    Case("json-chinese", "an ordinary request", request(body=inside(f'"你好 {ID}"'.encode())), 200, engine=({"path": CHAT, **said(f"你好 {ID}")},)),
]
