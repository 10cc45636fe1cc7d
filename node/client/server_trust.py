"""Certificates that a client accepts."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Trust:
    """Without anything, what the system trusts. With `ca_file`, what this certificate has signed, or
    itself. With `fingerprint` (SHA-256, hex), this one certificate whatever it says."""

    ca_file: Path | None = None
    fingerprint: str | None = None

    def context(self) -> ssl.SSLContext:
        """For a connection after which `is_right` is asked.

        Raises:
            OSError: `ca_file` cannot be read, or is no certificate.
        """
        if self.fingerprint is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # `is_right` looks at it
            return context
        return ssl.create_default_context(cafile=self.ca_file)

    def is_right(self, certificate: bytes | None) -> bool:
        """Return True if the peer's certificate (DER) is the one; nothing may be sent before."""
        if self.fingerprint is None:
            return True
        return certificate is not None and (
            hashlib.sha256(certificate).hexdigest() == self.fingerprint
        )
