"""SCRAM-SHA-256 verifiers: what PostgreSQL keeps instead of a password (RFC 5803)."""

from __future__ import annotations

import base64
import hashlib
import hmac


def scram_verifier(password: str, salt: bytes, iterations: int = 4_096) -> str:
    """The verifier, made on our side so that the password is in no statement and no server log.

    `password` is ASCII: SASLprep would leave it as it is. Raises UnicodeEncodeError.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"
