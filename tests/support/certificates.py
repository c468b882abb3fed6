"""Certificates of authorities that a test makes, as PEM files: good ones and bad ones."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import attrs
import trustme

_EXPIRED_AT = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
"""Certificates of trustme are valid from the year 2000 on."""


@attrs.frozen
class CertificateFiles:
    """What one side of mutual TLS has."""

    ca: Path
    """The certificate of the authority that it trusts."""
    certificate: Path
    key: Path

    @property
    def client_table(self) -> dict[str, str]:
        """The settings `tls` of a config, for connections to servers."""
        return {"ca": str(self.ca), "certificate": str(self.certificate), "key": str(self.key)}

    @property
    def server_table(self) -> dict[str, str]:
        """The settings `tls` of a gateway and `serve_tls` of a plugin."""
        table = self.client_table
        return {"client_ca": table.pop("ca"), **table}


class Authority:
    """A certificate authority, with its certificate in `ca.pem` of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(
        self,
        name: str,
        *identities: str,
        expired: bool = False,
        trusting: Authority | None = None,
    ) -> CertificateFiles:
        """Write `NAME.pem` and `NAME.key`.

        Args:
            name: The common name.
            identities: Its alternative names: DNS names, IP addresses, or e-mail addresses.
            expired: Whether it is no longer valid.
            trusting: The authority that the side with this certificate trusts; this one by default.
                A certificate of another authority is thus one that its peers do not trust.
        """
        issued = self._authority.issue_cert(
            *identities, common_name=name, not_after=_EXPIRED_AT if expired else None
        )
        files = CertificateFiles(
            (trusting or self).ca, self._folder / f"{name}.pem", self._folder / f"{name}.key"
        )
        issued.private_key_pem.write_to_path(str(files.key))
        issued.cert_chain_pems[0].write_to_path(str(files.certificate))
        return files


@attrs.frozen
class Certificates:
    """PEM files: an authority's, a server's and a client's, each with its key."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @classmethod
    def create(cls, folder: Path, host: str, clients: Sequence[str] = ("client",)) -> Certificates:
        """`clients` are the common names of as many certificates, and their files'."""
        authority = Authority(folder)
        authority.issue("server", host)
        for name in clients:
            authority.issue(name, f"{name}@example.org")
        return cls(folder)
