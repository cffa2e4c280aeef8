"""Signs a request as Amazon Pay's SDKs do."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

_ALGORITHM = "AMZN-PAY-RSASSA-PSS-V2"


def amazon_signed(
    private: rsa.RSAPrivateKey, path: str, body: bytes, headers: Mapping[str, str]
) -> dict[str, str]:
    """The headers of a POST, with the signature over them, the path and the body."""
    sent = {
        **headers,
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "shop",
        "x-amz-pay-date": "20260101T000000Z",
        "x-amz-pay-host": "pay-api.amazon.eu",
        "x-amz-pay-region": "eu",
    }
    names = sorted(sent)
    lines = "".join(f"{name}:{sent[name]}\n" for name in names)
    digest = hashlib.sha256(body).hexdigest()
    request = f"POST\n{path}\n\n{lines}\n{';'.join(names)}\n{digest}"
    text = f"{_ALGORITHM}\n{hashlib.sha256(request.encode()).hexdigest()}"
    scheme = padding.PSS(padding.MGF1(SHA256()), 32)
    signature = base64.b64encode(private.sign(text.encode(), scheme, SHA256())).decode()
    said = f"PublicKeyId=key, SignedHeaders={';'.join(names)}, Signature={signature}"
    return {**sent, "authorization": f"{_ALGORITHM} {said}"}
