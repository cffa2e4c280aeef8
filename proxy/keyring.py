"""The install's secret key: keyed hashes for fingerprints, sealing for stored answers, client
tokens.

One 256-bit key per installation, from the environment, a file, or made on first start beside the
store with mode 0600. Purposes get keys of their own (HKDF), so that none can stand in for another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import tempfile
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_SHA256_BLOCK = 64
_NONCE_BYTES = 12
_ID_BYTES = 4
_BEGUN_KEPT = 256


class KeyFileError(Exception):
    """The key file cannot be used."""


class SealBroken(Exception):  # noqa: N818 -- the word for it
    """A sealed value was changed, belongs to another session, or was sealed with another key."""


class Keyring:
    """Everything that needs the secret."""

    def __init__(self, key: bytes) -> None:
        # HMAC (RFC 2104) with its key already in: two are made for every payment, and setting one
        # up takes longer than hashing a request.
        padded = _derive(key, b"holdfast fingerprint").ljust(_SHA256_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
        # What stands before the body is mostly the same: a route, a credential.
        self._begun = lru_cache(maxsize=_BEGUN_KEPT)(self._begin)
        self._token_key = _derive(key, b"holdfast client token")
        self._seal = AESGCM(_derive(key, b"holdfast answer"))
        # Names the key in what it sealed, so that a later key can be told from it.
        self._id = hashlib.sha256(_derive(key, b"holdfast key id")).digest()[:_ID_BYTES]

    def digest(self, *texts: str, body: bytes = b"") -> str:
        """HMAC-SHA-256 over the texts, their lengths before them, and the body; 64 hex digits.

        What is another one each time is best given as the body.
        """
        inner, outer = self._begun(*texts).copy(), self._outer.copy()
        inner.update(body)
        outer.update(inner.digest())
        return outer.hexdigest()

    def _begin(self, *texts: str) -> hashlib._Hash:
        told_apart = ",".join(map(str, map(len, texts)))
        inner = self._inner.copy()
        inner.update(b"%b:%b" % (told_apart.encode(), "".join(texts).encode()))
        return inner

    def client_token(self, session_id: str) -> str:
        """The token that lets a browser follow one session. Derived, so it is stored nowhere."""
        mac = hmac.digest(self._token_key, session_id.encode(), "sha256")
        return "ct_" + base64.urlsafe_b64encode(mac[:24]).decode()

    def seal(self, session_id: str, data: bytes) -> bytes:
        """AES-256-GCM with the session's id as associated data: key id, nonce, ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._id + nonce + self._seal.encrypt(nonce, data, session_id.encode())

    def unseal(self, session_id: str, sealed: bytes) -> bytes:
        """What was sealed. Raises `SealBroken`."""
        key_id, rest = sealed[:_ID_BYTES], sealed[_ID_BYTES:]
        message = f"the stored answer of {session_id} cannot be opened with this key"
        if key_id != self._id:
            raise SealBroken(message)
        try:
            nonce, data = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
            return self._seal.decrypt(nonce, data, session_id.encode())
        except (InvalidTag, ValueError):
            raise SealBroken(message) from None


def _derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(key)


def read_or_make_key(path: Path) -> bytes:
    """The key in a file, 64 hex digits; made with mode 0600 if there is none.

    Raises `KeyFileError` for a file that is not a key: a new one would make every stored answer
    and fingerprint useless without a word.
    """
    try:
        return _read_key(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # the first start
    except OSError as error:
        message = f"cannot read the key file {path.name}: {error.strerror}"
        raise KeyFileError(message) from None
    try:
        return _make_key(path)
    except OSError as error:
        message = f"cannot create the key file {path.name}: {error.strerror}"
        raise KeyFileError(message) from None


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        message = f"the key file {path.name} does not hold 64 hexadecimal digits"
        raise KeyFileError(message)
    return key


def _make_key(path: Path) -> bytes:
    """Written beside its place and named when it is whole: who dies on the way leaves no key that
    is none. If somebody was quicker, theirs.
    """
    key = secrets.token_bytes(KEY_BYTES)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        _give_name(draft, path)
    except FileExistsError:
        key = _read_key(path)
    finally:
        draft.unlink(missing_ok=True)
    # Sessions are fingerprinted with it from now on: its name must survive what they survive.
    _sync_folder(path.parent)
    return key


def _give_name(draft: Path, path: Path) -> None:
    """Raises `FileExistsError` if the name is taken, which a rename would not."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, some network file systems): take the name, then fill it at once.
        # Who dies between the two leaves an empty file; never can two processes have two keys.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        draft.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
