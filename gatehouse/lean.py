"""What is imported at less than its usual price."""

import os

_NOWHERE = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}  # of OpenSSL: SSL_CTX_set_default_verify_paths(3)


def import_aiohttp() -> None:
    """Import aiohttp without the machine's certificates, which it reads as it is imported, whether anybody asks by TLS.

    They take an eighth of a start, and 2 MB. A client that needs them brings them (`gateway.auth.fetch`); one that did
    not would trust nobody. Nothing may have imported aiohttp before.
    """
    before = {name: os.environ.get(name) for name in _NOWHERE}
    os.environ.update(_NOWHERE)
    try:
        import aiohttp  # noqa: F401, PLC0415 - the import is what is wanted
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
