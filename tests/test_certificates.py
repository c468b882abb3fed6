"""Certificates for tests: those that a peer must accept, and those that it must refuse."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from meshtrio.transport.tls import make_server_ssl_context
from tests.support.certificates import Authority, CertificateFiles


def find_refusal(server: CertificateFiles, client: CertificateFiles, name: str) -> str:
    """Return why one side refuses the other in a handshake, and which; "" if neither does."""
    calling = ssl.create_default_context(cafile=client.ca)
    calling.load_cert_chain(client.certificate, client.key)
    serving = make_server_ssl_context(server.certificate, server.key, server.ca)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = {
        "client": calling.wrap_bio(to_client, to_server, server_hostname=name),
        "server": serving.wrap_bio(to_server, to_client, server_side=True),
    }
    for _ in range(5):  # More round trips than a handshake has.
        for side, tls in sides.items():
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as exc:
                return f"{side}: {exc}"
    return ""


def test_good_and_bad_certificates(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    server = authority.issue("server", "10.1.2.3", "host-a.test")
    client = authority.issue("client", "10.1.2.4")
    assert find_refusal(server, client, "10.1.2.3") == ""
    assert find_refusal(server, client, "host-a.test") == ""
    assert "IP address mismatch" in find_refusal(server, client, "10.1.2.4")
    expired = authority.issue("expired", "10.1.2.3", expired=True)
    assert "certificate has expired" in find_refusal(expired, client, "10.1.2.3")
    foreign = other.issue("foreign", "10.1.2.3", trusting=authority)
    assert "unable to get local issuer" in find_refusal(foreign, client, "10.1.2.3")
    reason = find_refusal(server, foreign, "10.1.2.3")
    assert reason.startswith("server: ")
    assert "unable to get local issuer" in reason


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_settings_of_a_config(tmp_path: Path, name: str) -> None:
    files = Authority(tmp_path).issue(name, "10.0.0.1")
    assert files.client_table == {
        "ca": f"{tmp_path}/ca.pem",
        "certificate": f"{tmp_path}/{name}.pem",
        "key": f"{tmp_path}/{name}.key",
    }
    assert set(files.server_table) == {"client_ca", "certificate", "key"}
