"""A personal token is no wider than its member, whatever the member may do. Pure."""

import pytest

from gateway.auth.account import models_of, scopes_of
from gateway.context import Principal, Via
from gateway.errors import Forbidden

ALL = Principal("ada", None, frozenset({"api", "chat"}), "member", (), None, Via.SESSION)
SOME = Principal("ada", None, frozenset({"chat"}), "member", ("gpt-*", "qwen"), None, Via.SESSION)


def test_scopes() -> None:
    """Each scope must be the member's; one named twice is one."""
    assert scopes_of(ALL, ["chat", "api", "chat"]) == ("chat", "api")
    assert scopes_of(ALL, []) == ()
    for member, scope in ((ALL, "admin"), (SOME, "api"), (ALL, "API")):
        with pytest.raises(Forbidden, match=scope):
            scopes_of(member, [scope])


def test_models() -> None:
    """Who may use every model may name any; who may not gets their own, or some of those as they stand."""
    assert models_of(ALL, None) == ()
    assert models_of(ALL, ["x*", "x*"]) == ("x*",)
    assert models_of(SOME, None) == models_of(SOME, []) == ("gpt-*", "qwen")
    assert models_of(SOME, ["qwen"]) == ("qwen",)
    for glob in ("*", "gpt-4", "q*"):
        with pytest.raises(Forbidden):
            models_of(SOME, [glob])
