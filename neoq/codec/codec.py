"""Codec: compresses and encrypts the values of jobs, by keys that can be rotated."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from neoq.errors import ConfigError, InvalidJobError, MissingKeyError
from neoq.payload import COMPRESSED, SEALED, fingerprint_of_kind, is_coded

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

    from neoq.job import Job

SEALED_TEXT = "sealed:"  # what a sealed text begins with
MOST_BYTES = 2**28  # of a decompressed value: more is an attack


@runtime_checkable
class Sealer(Protocol):
    """A key of one's own: what `Codec` takes in the place of a Fernet key."""

    def encrypt(self, data: bytes) -> bytes:
        """The data, sealed and authenticated."""

    def decrypt(self, data: bytes) -> bytes:
        """What `encrypt` was given; raises any Exception for what another key has sealed, or nobody."""


class Codec:
    """Compresses and seals payloads, results, errors, progress, steps and signals: ``connect(codec=...)``.

    ``keys`` are Fernet keys (``cryptography.fernet.Fernet.generate_key()``), or objects with ``encrypt``
    and ``decrypt``. The first seals, and all are tried to open. So a key is rotated by a new one in front;
    the old one may go when no job is left that it has sealed. Without keys nothing is sealed. Unique jobs
    are compared by a keyed hash (BLAKE2b) of their payload with ``fingerprint_key``, of 16 to 64 bytes,
    which must stay the same while jobs wait. JSON of more bytes than ``compress_above`` is compressed, by
    zlib; None compresses nothing. The size of what is compressed and then sealed tells something of it.

    A queue's name, kind, key, uid, fingerprint of one's own, meta, priority and times are stored as they are.

    Raises ConfigError for a wrong key, and where ``keys`` are given and cryptography is not installed.
    """

    def __init__(
        self,
        *,
        keys: Sequence[str | bytes | Sealer] = (),
        fingerprint_key: str | bytes | None = None,
        compress_above: int | None = None,
    ) -> None:
        problems: list[str] = []
        if isinstance(keys, (str, bytes)):
            problems.append("Codec: keys must be a list of keys, the newest first")
            keys = ()
        sealers = [_sealer(number, key, problems) for number, key in enumerate(keys)]
        if compress_above is not None and (type(compress_above) is not int or compress_above < 0):
            problems.append(f"Codec: compress_above must be a number of bytes, not {compress_above!r}")
        key = fingerprint_key.encode() if isinstance(fingerprint_key, str) else fingerprint_key
        if key is not None and (not isinstance(key, bytes) or not 16 <= len(key) <= 64):
            problems.append("Codec: fingerprint_key must have from 16 to 64 bytes")
        if problems:
            raise ConfigError(problems)
        self._sealers = [sealer for sealer in sealers if sealer is not None]
        self._fingerprint_key = key
        self._compress_above = compress_above

    def __repr__(self) -> str:
        return f"<Codec with {len(self._sealers)} keys>"

    @property
    def seals(self) -> bool:
        """Whether it has keys."""
        return bool(self._sealers)

    @property
    def may_compare(self) -> bool:
        """Whether payloads may be compared by a hash that is stored."""
        return self._fingerprint_key is not None or not self._sealers

    def refuse_open_fingerprint(self, job: Job) -> None:
        """Raise InvalidJobError where the hash of a sealed payload would be stored, by which to guess it."""
        if job.unique and not self.may_compare and compares_payload(job):
            raise InvalidJobError(
                "a unique job whose payload is sealed needs Codec(fingerprint_key=...); or give the job "
                "a fingerprint, or unique=False",
                queue=job.queue,
            )

    def fingerprint(self, plain: str) -> str:
        """The fingerprint to store, from that of the plain payload."""
        if self._fingerprint_key is None:
            return plain
        return hashlib.blake2b(plain.encode(), digest_size=16, key=self._fingerprint_key).hexdigest()

    def encode(self, data: bytes) -> bytes:
        """The value to be stored for JSON; the same where there is nothing to do with it."""
        marks = 0
        if self._compress_above is not None and len(data) > self._compress_above:
            packed = zlib.compress(data)
            if len(packed) < len(data):
                marks, data = COMPRESSED, packed
        if self._sealers:
            marks, data = marks | SEALED, self._sealers[0].encrypt(data)
        return bytes((marks,)) + data if marks else data

    def decode(self, data: bytes) -> bytes:
        """What `encode` was given. Raises MissingKeyError where no key opens it, or it is damaged."""
        if not is_coded(data):
            return data
        marks, data = data[0], data[1:]
        if marks & SEALED:
            data = self._opened(data)
        if marks & COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                data = unpacker.decompress(data, MOST_BYTES)
            except zlib.error as error:
                raise MissingKeyError(f"a compressed value is damaged: {error}") from None
            if not unpacker.eof:
                raise MissingKeyError("a compressed value is damaged, or too large")
        return data

    def _opened(self, data: bytes) -> bytes:
        for sealer in self._sealers:
            try:
                return sealer.decrypt(data)
            except Exception:  # noqa: S112  # another key has sealed it
                continue
        raise MissingKeyError(
            f"a value is sealed, and none of the {len(self._sealers)} keys of this process opens it; "
            "give Codec(keys=[...]) the key that sealed it"
        )

    def encode_text(self, text: str) -> str:
        """A text to be stored: sealed where there are keys."""
        if not self._sealers or not text:
            return text
        return SEALED_TEXT + base64.urlsafe_b64encode(self.encode(text.encode("utf-8", "replace"))).decode()

    def decode_text(self, text: str) -> str:
        """What `encode_text` was given."""
        try:
            return self.decode(base64.urlsafe_b64decode(text[len(SEALED_TEXT) :])).decode("utf-8", "replace")
        except ValueError:
            raise MissingKeyError("a sealed text is damaged") from None


def compares_payload(job: Job) -> bool:
    """Whether a job's fingerprint is a hash of its payload, rather than one of the user's own."""
    if job.own_fingerprint is None:
        return True
    return job.kind is not None and job.own_fingerprint == fingerprint_of_kind(
        job.queue, job.kind, job.body or b"{}"
    )


def _sealer(number: int, key: Any, problems: list[str]) -> Sealer | None:
    if not isinstance(key, (str, bytes)):
        if not isinstance(key, Sealer):
            problems.append(f"Codec: key {number} has no methods encrypt and decrypt")
            return None
        return key
    try:
        return _fernet(key)
    except ImportError:
        problems.append(
            "Codec: keys need the package cryptography: python3 -m pip install 'neoq[encryption]'"
        )
    except ValueError:
        problems.append(f"Codec: key {number} is no Fernet key: 32 bytes in URL-safe base64")
    return None


def _fernet(key: str | bytes) -> Fernet:
    from cryptography.fernet import Fernet

    return Fernet(key)
