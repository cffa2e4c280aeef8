"""The install's secret: what it keeps apart, what it notices, and that it is never lost."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.keyring import (
    KEY_BYTES,
    KeyFileError,
    Keyring,
    _derive,
    change_keys,
    key_id,
    read_keys,
    read_or_make_keys,
    rotated,
    without,
)
from proxy.ports import SealBroken
from tests.support.shell import environment

KEY, OTHER_KEY, THIRD_KEY = b"k" * KEY_BYTES, b"o" * KEY_BYTES, b"t" * KEY_BYTES
SESSION = "ps_0001"
ANSWER = b'gateway 200 OK\n\n{"id":"pi_1","status":"succeeded"}'
SEALED_ONCE = bytes.fromhex(
    "89e0c53f000102030405060708090a0bb7a70d473d0de170cc45251e59f4a6063e1e167c6d839dbbe851d97f86b1349f528f"
)


@pytest.fixture
def keyring() -> Keyring:
    """A keyring of an install."""
    return Keyring(KEY)


# --- digests --------------------------------------------------------------------------------------


def test_a_digest_is_the_same_every_time(keyring: Keyring) -> None:
    """64 hexadecimal digits; another process finds it again."""
    digest = keyring.digest("stripe", "Zahlung-für-1")
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert digest == Keyring(KEY).digest("stripe", "Zahlung-für-1")


def test_digests_are_keyed(keyring: Keyring) -> None:
    """Not a plain hash, nor one with the raw key: who has the store alone cannot try out values."""
    digest, parts = keyring.digest("a"), b"1:a"
    assert digest != Keyring(OTHER_KEY).digest("a")
    assert digest != hashlib.sha256(parts).hexdigest()
    assert digest != hmac.digest(KEY, parts, "sha256").hex()


def test_parts_cannot_run_into_each_other(keyring: Keyring) -> None:
    """Each text counts with its length: whatever moves between two parts changes the digest."""
    told_apart: list[tuple[tuple[str, ...], bytes]] = [
        (("ab", "c"), b""),
        (("a", "bc"), b""),
        (("abc",), b""),
        (("abc", ""), b""),
        (("", "abc"), b""),
        (("ab",), b"c"),
        (("ab", ""), b"c"),
        (("ab", "c", ""), b""),
        ((), b""),
        ((), b"abc"),
        (("",), b""),
        (("", ""), b""),
        (("1:a",), b""),
        (("1,1:ab",), b""),
        (("a", "b"), b""),
        (("1",), b"1:ab"),
        (("ä",), b""),
        ((), "ä".encode()),
        ((), "ä".encode("latin-1")),
    ]
    digests = {keyring.digest(*texts, body=body) for texts, body in told_apart}
    assert len(digests) == len(told_apart)


# --- sealed answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [ANSWER, b"", b"x" * 1_000_000], ids=["answer", "empty", "big"])
def test_what_is_sealed_comes_back(keyring: Keyring, data: bytes) -> None:
    """The same key and session open it, in this process and the next; it cannot be read before."""
    sealed = keyring.seal(SESSION, data)
    assert keyring.unseal(SESSION, sealed) == data
    assert Keyring(KEY).unseal(SESSION, sealed) == data
    assert not data or data not in sealed


def test_the_same_answer_is_never_sealed_the_same(keyring: Keyring) -> None:
    """A nonce is used once, so equal answers cannot be seen to be equal; all name their key."""
    sealed = [keyring.seal(SESSION, ANSWER) for _ in range(1000)]
    assert len({one[4:16] for one in sealed}) == 1000
    assert len({one[16:] for one in sealed}) == 1000
    assert {one[:4] for one in sealed} == {Keyring(KEY).seal("ps_0002", b"")[:4]}
    assert Keyring(OTHER_KEY).seal(SESSION, ANSWER)[:4] != sealed[0][:4]


def broken(keyring: Keyring, session_id: str, sealed: bytes) -> None:
    """It must not open; the error names the session and nothing of what is inside."""
    with pytest.raises(SealBroken) as caught:
        keyring.unseal(session_id, sealed)
    known = sealed[:4] == keyring.seal(session_id, b"")[:4]
    told = f"cannot be opened with key {sealed[:4].hex()}"
    other = f"was sealed with key {sealed[:4].hex()}, which is not here"
    assert str(caught.value) == f"what is stored of {session_id} {told if known else other}"


def test_an_answer_belongs_to_its_session(keyring: Keyring) -> None:
    """Moved to another session's row it does not open: nobody gets another payment's answer."""
    sealed = keyring.seal(SESSION, ANSWER)
    for other in ("ps_0002", "ps_000", "ps_00011", ""):
        broken(keyring, other, sealed)


def test_every_change_is_noticed(keyring: Keyring) -> None:
    """One bit anywhere, a byte less or more at either end: it does not open."""
    sealed = keyring.seal(SESSION, ANSWER)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        broken(keyring, SESSION, bytes(changed))
    for length in range(len(sealed)):
        broken(keyring, SESSION, sealed[:length])
    for changed_length in (sealed + b"\0", b"\0" + sealed, sealed[1:], sealed + sealed):
        broken(keyring, SESSION, changed_length)


def test_another_key_does_not_open_it(keyring: Keyring) -> None:
    """Not another install's, and not one that only pretends to have sealed it."""
    sealed, other = keyring.seal(SESSION, ANSWER), Keyring(OTHER_KEY)
    broken(other, SESSION, sealed)
    broken(other, SESSION, other.seal(SESSION, b"")[:4] + sealed[4:])


# --- several keys ---------------------------------------------------------------------------------


def test_the_last_key_seals_and_every_key_opens() -> None:
    """Kept answers need no new seal; a key that is gone leaves those it sealed shut."""
    keyrings = [Keyring(KEY), Keyring(KEY, OTHER_KEY), Keyring(KEY, OTHER_KEY, THIRD_KEY)]
    sealed = [keyring.seal(SESSION, ANSWER) for keyring in keyrings]
    assert [one[:4] for one in sealed] == list(map(key_id, (KEY, OTHER_KEY, THIRD_KEY)))
    for one in sealed:
        assert keyrings[-1].unseal(SESSION, one) == ANSWER
    broken(Keyring(KEY, THIRD_KEY), SESSION, sealed[1])


def test_one_key_does_not_pass_for_another() -> None:
    """The id only says which key to try: under another key's it does not open."""
    keyring = Keyring(KEY, OTHER_KEY)
    sealed = keyring.seal(SESSION, ANSWER)
    with pytest.raises(SealBroken, match=key_id(KEY).hex()):
        keyring.unseal(SESSION, key_id(KEY) + sealed[4:])


def test_a_rotation_changes_no_fingerprint_and_no_token(keyring: Keyring) -> None:
    """They are the install key's: with another first key every repeat would be a new payment."""
    later, other = Keyring(KEY, OTHER_KEY), Keyring(OTHER_KEY, KEY)
    assert later.digest("stripe", body=b"1") == keyring.digest("stripe", body=b"1")
    assert later.client_token(SESSION) == keyring.client_token(SESSION)
    assert other.digest("stripe", body=b"1") != keyring.digest("stripe", body=b"1")
    assert other.client_token(SESSION) != keyring.client_token(SESSION)


def test_a_replica_that_started_earlier_opens_what_a_newer_key_sealed(tmp_path: Path) -> None:
    """An unknown id has the file read again; its own seal stays what it was at its start."""
    path = tmp_path / "key"
    earlier = Keyring(*read_or_make_keys(path), read_again=partial(read_keys, path))
    not_told = Keyring(*read_keys(path))
    later = Keyring(*change_keys(path, rotated))
    sealed = later.seal(SESSION, ANSWER)

    broken(not_told, SESSION, sealed)  # the negative control: who does not read again
    assert earlier.unseal(SESSION, sealed) == ANSWER
    assert earlier.seal(SESSION, ANSWER)[:4] == key_id(read_keys(path)[0])
    path.unlink()
    assert earlier.unseal(SESSION, sealed) == ANSWER
    broken(earlier, SESSION, Keyring(OTHER_KEY).seal(SESSION, ANSWER))  # not in the file, nor is it
    path.write_text("torn")
    broken(earlier, SESSION, Keyring(OTHER_KEY).seal(SESSION, ANSWER))


# --- client tokens --------------------------------------------------------------------------------


def test_a_token_follows_one_session_of_one_install(keyring: Keyring) -> None:
    """Derived, so the same after a restart; never the same for two sessions or two installs."""
    token = keyring.client_token(SESSION)
    assert re.fullmatch(r"ct_[\w-]{32}", token, re.ASCII)
    assert token == Keyring(KEY).client_token(SESSION)
    assert token != Keyring(OTHER_KEY).client_token(SESSION)
    sessions = [f"ps_{number:04d}" for number in range(1000)]
    assert len({keyring.client_token(session) for session in sessions}) == 1000


# --- one key, many purposes -----------------------------------------------------------------------


def test_no_purpose_stands_in_for_another(keyring: Keyring) -> None:
    """A digest makes no token, and neither key nor the install's own opens an answer."""
    digest = bytes.fromhex(keyring.digest(SESSION))
    token = base64.urlsafe_b64decode(keyring.client_token(SESSION).removeprefix("ct_"))
    # The two keys are private; held here to show that they differ.
    digest_key = _derive(KEY, b"holdfast fingerprint")
    keys = {"install": KEY, "digest": digest_key, "token": keyring._token_key}
    assert len(set(keys.values())) == 3
    for key in keys.values():
        assert (hmac.digest(key, SESSION.encode(), "sha256")[:24] == token) == (
            key is keyring._token_key
        )
    assert digest[:24] != token

    sealed = keyring.seal(SESSION, ANSWER)
    for key in keys.values():
        with pytest.raises(InvalidTag):
            AESGCM(key).decrypt(sealed[4:16], sealed[16:], SESSION.encode())


def test_a_later_version_reads_what_this_one_wrote(keyring: Keyring) -> None:
    """Keys, orders and answers in the stores out there are named and sealed exactly so."""
    assert keyring.digest("ab", "c") == (
        "efdcb0b5f09eaaa1aa9948bd655e3624ff30f9acbe96b2b380a441a07f886dad"
    )
    assert keyring.client_token(SESSION) == "ct_LGJoMxcmiMqssXJ1BNS5HZcxmOtcdPzV"
    assert keyring.unseal(SESSION, SEALED_ONCE) == b"gateway 200 OK\n\nok"


# --- the key file ---------------------------------------------------------------------------------


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Files are made with this mask."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """As somebody whom the file system can refuse something: root becomes another user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may look into; pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def only_key(path: Path) -> bytes:
    """The key in a file that holds one, which is made if it is not there."""
    (key,) = read_or_make_keys(path)
    return key


def test_a_first_start_makes_a_key(tmp_path: Path) -> None:
    """32 random bytes as one line, which only their owner can read, and nothing beside it."""
    path = tmp_path / "holdfast.db.key"
    with umask(0):
        key = only_key(path)
    assert path.read_text() == key.hex() + "\n"
    assert len(key) == KEY_BYTES
    assert path.stat().st_mode & 0o7777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert only_key(tmp_path / "another.key") != key


def test_the_key_is_on_the_disk_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fingerprinted with it outlives a power cut, so it must do so first."""
    path = tmp_path / "key"
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            assert os.path.samestat(os.fstat(descriptor), tmp_path.stat())
            synced.append(f"the folder, and in it {path.read_text()}")
        else:
            assert not path.exists()  # it gets its name when it is whole
            synced.append(os.pread(descriptor, 100, 0).decode())

    monkeypatch.setattr(os, "fsync", fsync)
    line = only_key(path).hex() + "\n"
    assert synced == [line, f"the folder, and in it {line}"]


def test_every_later_start_reads_it(tmp_path: Path) -> None:
    """The same key, from a file that stays as it is."""
    path = tmp_path / "key"
    key = only_key(path)
    before = path.stat()
    assert [only_key(path), only_key(path)] == [key, key]
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("text", ["ab" * 32, "AB" * 32, f"\n  {'ab' * 32}\r\n\n"])
def test_a_key_made_by_hand_is_read(text: str, tmp_path: Path) -> None:
    """As `openssl rand -hex 32` or an editor leaves it."""
    path = tmp_path / "key"
    path.write_bytes(text.encode())
    assert only_key(path) == b"\xab" * KEY_BYTES


NO_KEYS: dict[str, bytes] = {
    "nothing": b"",
    "words": b"not a key\n",
    "a digit too few": b"a" * 63,
    "a byte too many": b"ab" * 33,
    "half a key": b"ab" * 16,
    "no digits": b"g" * 64,
    "the bytes themselves": bytes(range(200, 232)),
    "digits of another script": "٠١٢٣٤٥٦٧".encode() * 8,
}


@pytest.mark.parametrize("data", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_a_file_that_is_no_key_stays_as_it_is(data: bytes, tmp_path: Path) -> None:
    """The file is named, its text is not (it may be nearly a key), and it is not replaced."""
    path = tmp_path / "holdfast.db.key"
    path.write_bytes(data)
    with pytest.raises(KeyFileError) as caught:
        only_key(path)
    told = (", line 1: not a key" if data else " holds no key") + " of 64 hexadecimal digits"
    assert str(caught.value) == f"the key file holdfast.db.key{told}"
    assert path.read_bytes() == data


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    """A folder where the key should be (a volume mounted wrongly) is named, too."""
    (tmp_path / "key").mkdir()
    with pytest.raises(KeyFileError) as caught:
        only_key(tmp_path / "key")
    assert str(caught.value) == "cannot read the key file key: Is a directory"


def test_a_key_that_may_not_be_read_is_not_called_wrong(public: Path) -> None:
    """Made by root, read by the service's user: told as it is, and the key is left alone."""
    path = public / "key"
    key = only_key(path)
    path.chmod(0)
    with nobody(), pytest.raises(KeyFileError) as caught:
        only_key(path)
    assert str(caught.value) == "cannot read the key file key: Permission denied"
    path.chmod(0o600)
    assert only_key(path) == key


def test_a_link_to_nothing_is_no_place_for_a_key(tmp_path: Path) -> None:
    """A volume that is not mounted (yet): no key is made elsewhere, and the link stays."""
    path = tmp_path / "key"
    path.symlink_to(tmp_path / "not-mounted" / "key")
    with pytest.raises(KeyFileError) as caught:
        only_key(path)
    assert str(caught.value) == "cannot create the key file key: No such file or directory"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_takes_no_file(public: Path) -> None:
    """Read-only, missing, or no folder at all: the file is named, and why it cannot be made."""
    read_only, file = public / "read-only", public / "file"
    read_only.mkdir(mode=0o555)
    file.touch()
    for folder, why in (
        (read_only, "Permission denied"),
        (public / "missing", "No such file or directory"),
        (file, "Not a directory"),
    ):
        as_somebody = nobody() if folder == read_only else contextlib.nullcontext()
        with as_somebody, pytest.raises(KeyFileError) as caught:
            only_key(folder / "holdfast.db.key")
        assert str(caught.value) == f"cannot create the key file holdfast.db.key: {why}"
    assert list(read_only.iterdir()) == []


_FULL_DISK = """
import resource, sys
from pathlib import Path
from proxy.keyring import read_or_make_keys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
read_or_make_keys(Path(sys.argv[1]))
"""
_KILLED = """
import os, sys
from pathlib import Path
from proxy.keyring import read_or_make_keys
setattr(os, sys.argv[2], lambda *_: os._exit(9))
read_or_make_keys(Path(sys.argv[1]))
"""


def started(script: str, *arguments: str | Path) -> int:
    """The exit code of a script in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment(), check=False, capture_output=True)
    return done.returncode


def test_a_first_start_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Nothing was sealed with a key that was never written; the next start makes one."""
    path = tmp_path / "key"
    assert started(_FULL_DISK, path) == 1
    assert list(tmp_path.iterdir()) == []
    assert len(only_key(path)) == KEY_BYTES


@pytest.mark.parametrize("line", ["fdopen", "fsync", "link", "unlink"])
def test_a_first_start_that_dies_does_not_stop_the_next(line: str, tmp_path: Path) -> None:
    """Killed anywhere while it makes the key: there is a whole key, or none and one is made."""
    path = tmp_path / "key"
    assert started(_KILLED, path, line) == 9
    named = path.read_text() if path.exists() else None
    key = only_key(path)
    assert len(key) == KEY_BYTES
    assert named in (None, key.hex() + "\n")


def test_who_looks_while_it_is_written_gets_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process comes between the making and the naming: both have its key."""
    path = tmp_path / "key"
    others: list[bytes] = []
    link = os.link

    def late(*arguments: Path) -> None:
        monkeypatch.undo()
        others.append(only_key(path))
        link(*arguments)

    monkeypatch.setattr(os, "link", late)
    assert [only_key(path)] == others
    assert [only_key(path)] == others
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("there", ["nobody else", "somebody quicker"])
def test_a_file_system_without_hard_links_keeps_a_key_as_well(
    number: int, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT, some network file systems: made once, for its owner only, and never replaced."""
    path = tmp_path / "key"

    def no_link(*_: Path) -> None:
        if there == "somebody quicker":
            path.write_text("ab" * 32)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_link)
    key = only_key(path)
    assert (key == b"\xab" * KEY_BYTES) == (there == "somebody quicker")
    assert path.read_text().strip() == key.hex()
    assert there == "somebody quicker" or path.stat().st_mode & 0o7777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


# Says that it stands at the line, waits for the start, and tells its key or why it has none.
_RACER = """
import sys
from pathlib import Path
from proxy.keyring import KeyFileError, read_or_make_keys
print("ready", flush=True)
sys.stdin.readline()
try:
    print(read_or_make_keys(Path("key"))[0].hex())
except KeyFileError as error:
    print(error)
"""
_RACERS = 4
_RACES = 3


def test_two_first_starts_at_once_make_one_key(tmp_path: Path) -> None:
    """One makes the key, and nobody goes on with another one."""
    for number in range(_RACES):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = race(folder)
        key = (folder / "key").read_text().strip()
        assert set(told) == {key}
        assert only_key(folder / "key").hex() == key


def race(folder: Path) -> list[str]:
    """What each of some processes that start at once in a folder got."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER],
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(_RACERS)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        return [racer.communicate()[0].strip() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


# --- changing the key file ------------------------------------------------------------------------


WRONG_LINES: dict[str, tuple[str, str]] = {
    "torn": ("ab" * 32 + "\n" + "cd" * 20, "line 2: not a key of 64 hexadecimal digits"),
    "garbled": (
        "ab" * 32 + "\n\nno key\n" + "cd" * 32,
        "line 3: not a key of 64 hexadecimal digits",
    ),
    "two in one line": ("ab" * 32 + "cd" * 32, "line 1: not a key of 64 hexadecimal digits"),
    "one key twice": ("ab" * 32 + "\n" + "AB" * 32, "line 2: the same key as in line 1"),
}


@pytest.mark.parametrize(("text", "told"), WRONG_LINES.values(), ids=WRONG_LINES.keys())
def test_a_wrong_line_is_named_and_the_file_left_alone(
    text: str, told: str, tmp_path: Path
) -> None:
    """By its number, not by what it says; neither a start nor a rotation mends it."""
    path = tmp_path / "key"
    path.write_text(text)
    for use in (read_or_make_keys, read_keys, partial(change_keys, change=rotated)):
        with pytest.raises(KeyFileError) as caught:
            use(path)
        assert str(caught.value) == f"the key file key, {told}"
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_rotation_puts_a_new_key_behind_the_others(tmp_path: Path) -> None:
    """What was there stays, in its order; the file is as private as before, and nothing beside."""
    path = tmp_path / "key"
    keys = read_or_make_keys(path)
    for mode in (0o600, 0o440):
        path.chmod(mode)
        with umask(0):
            later = change_keys(path, rotated)
        assert path.stat().st_mode & 0o7777 == mode
        assert path.read_text() == "".join(f"{key.hex()}\n" for key in later)
        assert later[:-1] == keys
        keys = later
    assert len({*keys}) == 3
    assert read_keys(path) == keys
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_who_could_read_the_key_file_still_can(tmp_path: Path) -> None:
    """Root rotates the key of a service that is another user; links to the file stay links."""
    path, link = tmp_path / "key", tmp_path / "link"
    only_key(path)
    os.chown(path, 65534, 65534)
    link.symlink_to(path)
    change_keys(link, rotated)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)
    assert link.is_symlink()
    assert len(read_keys(path)) == 2


def test_there_is_nothing_to_rotate_before_the_first_start(tmp_path: Path) -> None:
    """A wrong path would else get a key that nobody uses."""
    with pytest.raises(KeyFileError) as caught:
        change_keys(tmp_path / "key", rotated)
    assert str(caught.value) == "cannot change the key file key: No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_only_an_old_sealing_key_can_be_dropped() -> None:
    """Not the install key, not the one that seals, and no other one by mistake."""
    keys = (KEY, OTHER_KEY, THIRD_KEY)
    assert without(keys, key_id(OTHER_KEY)) == (KEY, THIRD_KEY)
    for kept, told in (
        (KEY, "is the install key: without it every repeat would be a new payment"),
        (THIRD_KEY, "is the key that seals: rotate first"),
    ):
        with pytest.raises(KeyFileError, match=f"{key_id(kept).hex()} {told}"):
            without(keys, key_id(kept))
    with pytest.raises(KeyFileError, match="there is no key 00000000"):
        without(keys, b"\0\0\0\0")


def test_a_rotation_is_on_the_disk_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the new file, then its name: whatever seals with the new key can be opened."""
    path = tmp_path / "key"
    (first,) = read_or_make_keys(path)
    synced: list[tuple[bool, bytes, int]] = []

    def fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        text = b"" if folder else os.pread(descriptor, 1000, 0)
        synced.append((folder, text, len(read_keys(path))))

    monkeypatch.setattr(os, "fsync", fsync)
    keys = change_keys(path, rotated)
    assert keys[0] == first
    assert synced == [(False, path.read_bytes(), 1), (True, b"", 2)]


_KILLED_ROTATING = """
import os, sys
from pathlib import Path
from proxy.keyring import change_keys, rotated
setattr(os, sys.argv[2], lambda *_, **__: os._exit(9))
change_keys(Path(sys.argv[1]), rotated)
"""


@pytest.mark.parametrize("line", ["fdopen", "fsync", "chown", "replace", "rename", "unlink"])
def test_a_rotation_that_dies_leaves_a_whole_file(line: str, tmp_path: Path) -> None:
    """Killed anywhere: the old keys, or the old ones and the new one; the next rotation works."""
    path = tmp_path / "key"
    first = only_key(path)
    assert started(_KILLED_ROTATING, path, line) in {0, 9}  # one of replace and rename is not used
    keys = read_keys(path)
    assert keys[0] == first
    assert len(keys) in {1, 2}
    assert change_keys(path, rotated)[:-1] == keys


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "not locked"])
def test_two_rotations_at_once_both_survive(
    locked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comes while the other writes, and waits. Without the lock, the control, one is lost."""
    path = tmp_path / "key"
    only_key(path)
    fsync = os.fsync
    others: list[subprocess.Popen[bytes]] = []

    def slow(descriptor: int) -> None:
        if not others:
            others.append(
                subprocess.Popen(
                    [sys.executable, "-c", _ROTATING, path, str(locked)],
                    env=environment(),
                    stdout=subprocess.PIPE,
                )
            )
            said = others[0].stdout
            assert said is not None
            assert said.readline() == (b"waits\n" if locked else b"done\n")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    if not locked:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    ours = change_keys(path, rotated)[-1]
    others[0].communicate()
    assert others[0].returncode == 0
    assert ours in read_keys(path)
    assert len(read_keys(path)) == (3 if locked else 2)


# Says so when it finds that somebody else has the lock, and when it is done.
_ROTATING = """
import fcntl, sys
from pathlib import Path
from proxy.keyring import change_keys, rotated
flock = fcntl.flock
def waiting(descriptor, how):
    try:
        flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waits", flush=True)
        flock(descriptor, how)
fcntl.flock = waiting if sys.argv[2] == "True" else lambda *_: None
change_keys(Path(sys.argv[1]), rotated)
print("done", flush=True)
"""


def test_a_lock_on_a_file_that_was_replaced_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for it takes that of the new file, which a third one may hold by now."""
    path = tmp_path / "key"
    only_key(path)
    flock = fcntl.flock
    locked: list[int] = []

    def late(descriptor: int, how: int) -> None:
        if not locked:
            locked.append(os.fstat(descriptor).st_ino)
            change_keys(path, rotated)
        locked.append(os.fstat(descriptor).st_ino)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    seen: list[int] = []

    def change(keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
        seen.append(path.stat().st_ino)
        return rotated(keys)

    change_keys(path, change)
    assert locked[-1] == seen[0]
    assert len(read_keys(path)) == 3
