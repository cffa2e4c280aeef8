"""The install's secret keys: keyed hashes for fingerprints, sealing for stored answers, client
tokens.

The first key, the install key, stays for ever: fingerprints, key hashes, the gateway's keys and
client tokens are made with it, and with another one every repeat would be a new payment. Sealing
keys change: the last one seals, and every one opens what it sealed. They come from the environment
or a file of one key a line, made on first start beside the store with mode 0600. Purposes get keys
of their own (HKDF), so that none can stand in for another.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy.folders import sync_folder
from proxy.ports import SealBroken

KEY_BYTES = 32
_SHA256_BLOCK = 64
_NONCE_BYTES = 12
_ID_BYTES = 4
_BEGUN_KEPT = 256
_LINE = re.compile(rb"[0-9a-fA-F]{64}")

# The install key, then the sealing keys that came after it.
Keys = tuple[bytes, ...]


class KeyFileError(Exception):
    """The key file cannot be used, or not be changed so."""


class Keyring:
    """Everything that needs the secret. `read_again` gives the keys as they are now."""

    def __init__(
        self, key: bytes, *later: bytes, read_again: Callable[[], Keys] | None = None
    ) -> None:
        # HMAC (RFC 2104) with its key already in: two are made for every payment, and setting one
        # up takes longer than hashing a request.
        padded = _derive(key, b"holdfast fingerprint").ljust(_SHA256_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
        # What stands before the body is mostly the same: a route, a credential.
        self._begun = lru_cache(maxsize=_BEGUN_KEPT)(self._begin)
        self._token_key = _derive(key, b"holdfast client token")
        self._read_again = read_again
        self._seals = _seals((key, *later))
        self._id, self._seal = list(self._seals.items())[-1]

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

    def seal(self, belongs_to: str, data: bytes) -> bytes:
        """AES-256-GCM, bound to what it belongs to: key id, nonce, ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._id + nonce + self._seal.encrypt(nonce, data, belongs_to.encode())

    def unseal(self, belongs_to: str, sealed: bytes) -> bytes:
        """What was sealed. Raises `SealBroken`."""
        sealed_with, rest = sealed[:_ID_BYTES], sealed[_ID_BYTES:]
        what = f"what is stored of {belongs_to}"
        seal = self._seals.get(sealed_with) or self._another(sealed_with)
        if seal is None:
            message = f"{what} was sealed with key {sealed_with.hex()}, which is not here"
            raise SealBroken(message)
        try:
            nonce, data = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
            return seal.decrypt(nonce, data, belongs_to.encode())
        except (InvalidTag, ValueError):
            message = f"{what} cannot be opened with key {sealed_with.hex()}"
            raise SealBroken(message) from None

    def _another(self, sealed_with: bytes) -> AESGCM | None:
        """A replica may have started with a newer key. It opens; what seals changes with a start,
        so that one can say when a key came into use.
        """
        if self._read_again is not None:
            with contextlib.suppress(KeyFileError):  # then with the keys there are
                self._seals |= _seals(self._read_again())
        return self._seals.get(sealed_with)


def key_id(key: bytes) -> bytes:
    """Names the key in front of what it sealed, and to people. It tells nothing about the key."""
    return hashlib.sha256(_derive(key, b"holdfast key id")).digest()[:_ID_BYTES]


def _seals(keys: Keys) -> dict[bytes, AESGCM]:
    return {key_id(key): AESGCM(_derive(key, b"holdfast answer")) for key in keys}


def _derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(key)


def rotated(keys: Keys) -> Keys:
    """With a new key at the end, which seals from the next start on."""
    taken = {key_id(key) for key in keys}
    while key_id(key := secrets.token_bytes(KEY_BYTES)) in taken:
        pass
    return (*keys, key)


def without(keys: Keys, dropped: bytes) -> Keys:
    """Without the key of this id. Raises `KeyFileError` for one that is needed, or not there."""
    ids, name = [key_id(key) for key in keys], dropped.hex()
    if dropped not in ids:
        message = f"there is no key {name}"
        raise KeyFileError(message)
    if dropped == ids[0]:
        message = f"{name} is the install key: without it every repeat would be a new payment"
        raise KeyFileError(message)
    if dropped == ids[-1]:
        message = f"{name} is the key that seals: rotate first"
        raise KeyFileError(message)
    return tuple(key for key in keys if key_id(key) != dropped)


def read_keys(path: Path) -> Keys:
    """The keys in a file. Raises `KeyFileError`."""
    with _told("read", path):
        return _read_keys(path)


def read_or_make_keys(path: Path) -> Keys:
    """The keys in a file, 64 hex digits a line; made with mode 0600 and one key if there is none.

    Raises `KeyFileError` for a file that is not one of keys: a new one would make every stored
    answer and fingerprint useless without a word.
    """
    # Missing at the first start.
    with _told("read", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return _read_keys(path)
    with _told("create", path):
        return _make_keys(path)


def change_keys(path: Path, change: Callable[[Keys], Keys]) -> Keys:
    """Change the keys in a file, one process after the other; what they are then.

    Raises `KeyFileError`; the file then holds what it did.
    """
    with _told("change", path), _alone(path.resolve()) as place:
        keys = change(_read_keys(place))
        before = place.stat()
        with _draft(place, keys) as draft:
            # Whoever could read it still can, also if root changes the key of a service.
            os.chown(draft, before.st_uid, before.st_gid)
            draft.chmod(stat.S_IMODE(before.st_mode))
            draft.replace(place)
        sync_folder(place.parent)
        return keys


@contextlib.contextmanager
def _told(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot {verb} the key file {path.name}: {error.strerror}"
        raise KeyFileError(message) from None


def _read_keys(path: Path) -> Keys:
    """Says which line is wrong and never what it says, which may be nearly a key."""
    lines: dict[bytes, int] = {}
    for number, text in enumerate(path.read_bytes().split(b"\n"), 1):
        line = text.strip()
        if not line:
            continue
        where = f"the key file {path.name}, line {number}:"
        if not _LINE.fullmatch(line):
            message = f"{where} not a key of 64 hexadecimal digits"
            raise KeyFileError(message)
        key = bytes.fromhex(line.decode())
        if key in lines:
            message = f"{where} the same key as in line {lines[key]}"
            raise KeyFileError(message)
        lines[key] = number
    if not lines:
        message = f"the key file {path.name} holds no key of 64 hexadecimal digits"
        raise KeyFileError(message)
    return tuple(lines)


def _make_keys(path: Path) -> Keys:
    """If somebody was quicker, theirs."""
    keys: Keys = (secrets.token_bytes(KEY_BYTES),)
    with _draft(path, keys) as draft:
        try:
            _give_name(draft, path)
        except FileExistsError:
            keys = _read_keys(path)
    # Sessions are fingerprinted with it from now on: its name must survive what they survive.
    sync_folder(path.parent)
    return keys


@contextlib.contextmanager
def _draft(path: Path, keys: Keys) -> Iterator[Path]:
    """Written beside its place, to be named when it is whole: who dies on the way leaves no key
    file that is none.
    """
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{key.hex()}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """The file, which nobody else changes meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Who waited may have got the lock of a file that has been replaced.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                yield path
                return
        finally:
            os.close(descriptor)


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
