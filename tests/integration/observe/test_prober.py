"""The way in, seen from outside by Debian's blackbox exporter: what certificates.yml looks at is what it tells."""

import datetime as dt
import json
import ssl
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.engines import parse_metrics
from tests.support.needs import free_port
from tests.support.prometheus import running
from tests.support.promql import OF_PROBER

DAYS = 9


@pytest.fixture
def https(tmp_path: Path) -> Iterator[str]:
    """A server with a certificate of its own making that ends in nine days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "both.pem"
    pem, raw = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, raw, serialization.NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}/healthz"
        server.shutdown()
        thread.join()


def test_the_prober_tells_when_the_certificate_ends(https: str, tmp_path: Path) -> None:
    """`probe_success` and `probe_ssl_earliest_cert_expiry`, with the certificate's own date."""
    config = {"modules": {"https": {"prober": "http", "http": {"tls_config": {"insecure_skip_verify": True}}}}}
    (tmp_path / "blackbox.yml").write_text(json.dumps(config), "utf-8")
    url = f"http://127.0.0.1:{free_port()}"
    argv = ["prometheus-blackbox-exporter", f"--config.file={tmp_path / 'blackbox.yml'}"]
    argv += [f"--web.listen-address={url.removeprefix('http://')}"]
    with running(argv, tmp_path / "log", f"{url}/-/healthy"):
        query = urllib.parse.urlencode({"module": "https", "target": https})
        with urllib.request.urlopen(f"{url}/probe?{query}", timeout=30) as answer:
            told = parse_metrics(answer.read().decode())
    assert told.keys() >= OF_PROBER
    assert told["probe_success"] == 1
    left = told["probe_ssl_earliest_cert_expiry"] - dt.datetime.now(dt.UTC).timestamp()
    assert DAYS - 1 < left / 86_400 <= DAYS
