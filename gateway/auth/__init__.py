"""Who is calling, proven.

authenticator = setup_auth(app, config)                    # keys, users, sessions, /auth/*
principal = await authenticator.authenticate(request)      # Unauthorized says why not
require_scope(principal, "api")
"""

from gateway.auth.authenticate import Authenticator, require_scope
from gateway.auth.setup import AUTHENTICATOR, setup_auth
from gateway.auth.sso_routes import sign_in_choices

__all__ = ["AUTHENTICATOR", "Authenticator", "require_scope", "setup_auth", "sign_in_choices"]
