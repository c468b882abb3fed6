"""Clusters that speak TLS, and certificates that are wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from meshtrio.etcd import EtcdUnavailableError, open_client
from meshtrio.util.tls_config import ClientTlsConfig
from tests.support.etcd_server import run_etcd
from tests.support.etcd_views import follow_prefix


async def test_tls_is_used_by_calls_and_watches() -> None:
    ca = trustme.CA()
    with run_etcd(certificate=ca.issue_cert("127.0.0.1"), ca=ca) as etcd:
        async with open_client(etcd.endpoints, tls=etcd.tls) as client:
            await client.put("a", b"1")
            async with follow_prefix(client, "a") as view:
                await view.wait_until(lambda: view.is_connected)
                await client.put("a", bytes(1_000_000))
                await view.wait_for({"a": bytes(1_000_000)})
        async with open_client(etcd.endpoints, tls=ClientTlsConfig()) as client:
            with pytest.raises(EtcdUnavailableError, match="certificate verify failed"):
                await client.put("a", b"1")


async def test_a_wrong_authority_is_named_and_watches_go_on_trying() -> None:
    ca = trustme.CA()
    with run_etcd(certificate=ca.issue_cert("127.0.0.1"), ca=trustme.CA()) as etcd:
        async with open_client(etcd.endpoints, tls=etcd.tls) as client:
            with pytest.raises(EtcdUnavailableError, match="certificate verify failed"):
                await client.put("a", b"1")
            async with follow_prefix(client, "a") as view:
                await view.wait_until(lambda: len(view.problems) == 2)
                assert "certificate verify failed" in view.problems[0]


async def test_an_expired_certificate_is_named() -> None:
    ca = trustme.CA()
    expired = ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    with run_etcd(certificate=expired, ca=ca) as etcd:
        async with open_client(etcd.endpoints, tls=etcd.tls) as client:
            with pytest.raises(EtcdUnavailableError, match="certificate has expired"):
                await client.put("a", b"1")


async def test_a_certificate_for_another_name_is_named() -> None:
    ca = trustme.CA()
    with run_etcd(certificate=ca.issue_cert("etcd.example.org"), ca=ca) as etcd:
        async with open_client(etcd.endpoints, tls=etcd.tls) as client:
            with pytest.raises(EtcdUnavailableError, match=r"not valid for '127\.0\.0\.1'"):
                await client.put("a", b"1")
        tls = ClientTlsConfig(etcd.tls.ca, server_name="etcd.example.org")
        async with open_client(etcd.endpoints, tls=tls) as client:
            await client.put("a", b"1")


async def test_http_to_a_member_that_speaks_tls_is_an_error() -> None:
    ca = trustme.CA()
    with run_etcd(certificate=ca.issue_cert("127.0.0.1"), ca=ca) as etcd:
        plain = [each.replace("https", "http") for each in etcd.endpoints]
        async with open_client(plain) as client:
            with pytest.raises(EtcdUnavailableError, match=plain[0]):
                await client.put("a", b"1")


async def test_a_client_certificate_is_sent(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    chain = tmp_path / "client.pem"
    ca.issue_cert("mesh@example.org").private_key_and_cert_chain_pem.write_to_path(str(chain))
    server = ca.issue_cert("127.0.0.1")
    options = ["--client-cert-auth", f"--trusted-ca-file={tmp_path / 'ca.pem'}"]
    with run_etcd(1, *options, certificate=server, ca=ca, client_certificate=chain) as etcd:
        tls = ClientTlsConfig(etcd.tls.ca, certificate=chain)
        async with open_client(etcd.endpoints, tls=tls) as client:
            await client.put("a", b"1")
        async with open_client(etcd.endpoints, tls=etcd.tls) as client:
            with pytest.raises(EtcdUnavailableError):
                await client.put("a", b"1")
