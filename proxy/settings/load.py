"""The way in: a policy file and the environment → `Settings`, or every mistake at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from proxy.settings.profiles import (
    OWN_PROFILES,
    Profiles,
    at,
    nearest,
    profiles_beside,
    profiles_for,
    read_bounded,
    read_file,
    shown,
    validate,
)
from proxy.settings.resolve import Resolver
from proxy.settings.schema import PolicyFile, ProfileFile
from proxy.settings.values import Gateway, Settings
from proxy.settings.yaml_lines import Data, Document, Mistake, core_scalar
from proxy.settings.yaml_lines import Path as Place

_TORN_READS = 5
# A gateway of which only the profile is looked at.
_NOWHERE: dict[str, Data] = {"listen": "127.0.0.1:8080", "upstream": "https://gateway.example"}
PREFIX = "HOLDFAST_"
OVERRIDE_PREFIX = "HOLDFAST__"
SECRETS = (
    "HOLDFAST_BACKEND_TOKEN",
    "HOLDFAST_KEY",
    "HOLDFAST_OPERATOR_TOKEN",
    "HOLDFAST_STORE_PASSWORD",
    "HOLDFAST_VIEWER_TOKEN",
)
# The last is for `holdfast sessions`, which may run beside the sidecar.
VARIABLES = (*SECRETS, *(f"{name}_FILE" for name in SECRETS), "HOLDFAST_API")


class ConfigError(Exception):
    """The configuration cannot be used; `mistakes` says why, all of it."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        # What stands in a file first, in its order; then what came from elsewhere.
        self.mistakes = sorted(set(mistakes), key=lambda mistake: (mistake.line == 0, mistake))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file without a mistake: what is written there, and what holds."""

    file: Path
    hash: str  # of what was read
    document: Document
    model: PolicyFile
    profiles: Mapping[str, tuple[ProfileFile, Document]]  # those that its gateways name
    settings: Settings


def load(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read a policy file. Raises `ConfigError` with all mistakes; nothing is half-applied."""
    return load_policy(path, environ).settings


def load_policy(path: Path, environ: Mapping[str, str] | None = None) -> Policy:
    """As `load`, with what was written where. All of it was there at one moment: files that are
    replaced one after the other never make a policy between them.
    """
    for _ in range(_TORN_READS):
        content = content_hash(path)
        policy = _read(path, environ, content)
        if content_hash(path) == content:
            return policy
    raise ConfigError([Mistake(shown(path), 0, 0, "", "it changes while it is read")])


def _read(path: Path, environ: Mapping[str, str] | None, content: str) -> Policy:
    environ = os.environ if environ is None else environ
    document = read_file(path)
    if document.data is None and document.mistakes:  # there is nothing to put anything over
        raise ConfigError(document.mistakes)
    _override(document, environ)
    _check_variables(document, environ)
    profiles = profiles_beside(path)
    _check_profile_names(document, profiles)
    model = validate(PolicyFile, document)
    if model is None:
        raise ConfigError(document.mistakes)
    resolver = Resolver(document, model, profiles, path.parent, environ)
    settings = resolver.settings()
    if settings is None or document.mistakes:
        raise ConfigError(document.mistakes)
    return Policy(path, content, document, model, resolver.named_profiles, settings)


def load_profile(written: str) -> tuple[Gateway, Document]:
    """A gateway of which a policy says nothing but its profile (a file, or the name of one that
    ships), and what stands there. Raises `ConfigError`.
    """
    profiles, name = profiles_for(written)
    if name not in profiles.names():
        if name != written:
            raise ConfigError(read_file(Path(written)).mistakes)
        told = f"no profile of that name ships{nearest(name, profiles.names())}"
        raise ConfigError([Mistake(written, 0, 0, "", told)])
    file, _ = profiles.load(name)
    parameters: dict[str, Data] = {} if file is None else dict.fromkeys(file.parameters, "mine")
    gateway: dict[str, Data] = {"profile": name, "parameters": parameters, **_NOWHERE}
    document = Document(written, {"store": "memory://", "gateways": {"gateway": gateway}})
    model = validate(PolicyFile, document)
    if model is None:
        raise ConfigError(document.mistakes)
    resolver = Resolver(document, model, profiles, Path(), {})
    settings = resolver.settings()
    if settings is None or document.mistakes:
        raise ConfigError(document.mistakes)
    return settings.gateways["gateway"], resolver.named_profiles[name][1]


def content_hash(path: Path) -> str:
    """Of a policy file and the profiles beside it, as they are now; what cannot be read counts as
    empty.
    """
    found = sha256()
    for file in (path, *sorted((path.parent / OWN_PROFILES).glob("*.yaml"))):
        with contextlib.suppress(OSError):
            data = read_bounded(file) if file.is_file() else b""
            found.update(b"%s\0%s\0" % (os.fsencode(file.name), data))
    return found.hexdigest()


def _check_profile_names(document: Document, profiles: Profiles) -> None:
    """On the raw data, so that it is said whatever else is wrong with the gateway."""
    data = document.data if isinstance(document.data, dict) else {}
    gateways = data.get("gateways")
    known = profiles.names()
    for name, gateway in (gateways if isinstance(gateways, dict) else {}).items():
        profile = gateway.get("profile") if isinstance(gateway, dict) else None
        if isinstance(profile, str) and profile not in known:
            message = f"there is no profile {profile!r}{nearest(profile, known)}"
            document.mistakes.append(document.mistake(("gateways", name, "profile"), message))


def _check_variables(document: Document, environ: Mapping[str, str]) -> None:
    """A secret whose name is misspelled would be a secret that is not there."""
    # On the raw data, likewise: what names a variable stands, whatever is wrong around it.
    data = document.data if isinstance(document.data, dict) else {}
    gateways = data.get("gateways")
    known = [*VARIABLES]
    for gateway in gateways.values() if isinstance(gateways, dict) else ():
        for path in (("lookup_credential", "env"), ("webhook", "secret", "env")):
            named = at(gateway, path)
            known += [named] if isinstance(named, str) else []
    for variable in environ:
        ours = variable.startswith(PREFIX) and not variable.startswith(OVERRIDE_PREFIX)
        if ours and variable not in known:
            origin = f"environment variable {variable}"
            told = f"unknown variable{nearest(variable, sorted(known), common=PREFIX)}"
            document.mistakes.append(Mistake(origin, 0, 0, "", told))


def _override(document: Document, environ: Mapping[str, str]) -> None:
    """Put `HOLDFAST__DEFAULTS__RETRY__MAX_ATTEMPTS=4` over `defaults.retry.max_attempts`."""
    for variable in sorted(environ):
        if not variable.startswith(OVERRIDE_PREFIX):
            continue
        steps = variable.removeprefix(OVERRIDE_PREFIX).split("__")
        if isinstance(document.data, dict):
            origin = f"environment variable {variable}"
            _set(document, document.data, steps, core_scalar(environ[variable]), origin)


def _set(
    document: Document, level: dict[str, Data], steps: list[str], value: Data, origin: str
) -> None:
    """Write a value where the steps lead; whatever was not there before is from `origin`."""
    place: Place = ()
    for number, step in enumerate(steps):
        name = next((k for k in level if k.replace("-", "_") == step.lower()), step.lower())
        place = (*place, name)
        if number == len(steps) - 1:
            level[name] = value
            document.origins[place] = origin
            return
        inner = level.get(name)
        if not isinstance(inner, dict):
            inner = {}
            level[name] = inner
            document.origins[place] = origin
        level = inner
