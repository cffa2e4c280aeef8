"""Amazon Pay's signature over a request (AMZN-PAY-RSASSA-PSS): over method, path, query, every
header that it names, and a hash of the body. Source: amazon-pay-api-sdk-nodejs, `clientHelper.js`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

_ALGORITHM = "AMZN-PAY-RSASSA-PSS"
_PADDING = padding.PSS(padding.MGF1(SHA256()), salt_length=20)
_SIGNED = re.compile(_ALGORITHM + r" PublicKeyId=\S+, SignedHeaders=(\S+), Signature=(\S+)")


@dataclass(frozen=True, slots=True)
class Message:
    """What is signed: a request as it is on the wire. Header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    def digest(self, names: list[str]) -> bytes:
        """The text that the signature is over, with these of its headers."""
        path, _, query = self.target.partition("?")
        lines = [self.method, path, query]
        lines += [f"{name}:{self.headers[name]}" for name in names]
        lines += ["", ";".join(names), hashlib.sha256(self.body).hexdigest()]
        canonical = "\n".join(lines).encode()
        return f"{_ALGORITHM}\n{hashlib.sha256(canonical).hexdigest()}".encode()


def signature(message: Message, key: rsa.RSAPrivateKey) -> str:
    """The `Authorization` header of a request."""
    names = sorted(message.headers)
    signed = base64.b64encode(key.sign(message.digest(names), _PADDING, SHA256())).decode()
    return f"{_ALGORITHM} PublicKeyId=shop, SignedHeaders={';'.join(names)}, Signature={signed}"


def is_signed(message: Message, key: rsa.RSAPublicKey) -> bool:
    """Whether the request is as its sender signed it, with nothing of Amazon's put in."""
    found = _SIGNED.fullmatch(message.headers.get("authorization", ""))
    if found is None:
        return False
    names = found[1].split(";")
    amazons = {name for name in message.headers if name.startswith("x-amz-pay-")}
    if not amazons <= set(names) <= set(message.headers):
        return False
    try:
        key.verify(base64.b64decode(found[2]), message.digest(names), _PADDING, SHA256())
    except InvalidSignature:
        return False
    return True
