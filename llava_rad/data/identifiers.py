"""Names for patients and studies that say nothing about who they are.

A hospital's Patient ID and Study Instance UID lead back to a person, and a plain hash of them is
undone by trying all ids. Here they become HMAC-SHA-256 under a secret key of 32 random bytes: the
same patient has the same name within all that was made with one key, and only who holds the key can
link two manifests, or a manifest with the hospital's ids. A conversion keeps its key beside the
manifest (``MANIFEST.key``, readable by its owner alone): it is no part of the data set. Hand it to
nobody with the manifest; delete it to make the names final.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from llava_rad.errors import DataError

_KEY_BYTES = 32
_DIGITS = 20  # 80 bits: one chance in a million of any collision among a billion names


class Identifiers:
    """Turns the ids of DICOM headers into those of a manifest.

    Args:
        key: secret; None takes a new one, which links within this object only.
        keep: use the raw ids, and keep dates.

    Attributes:
        used: whether any id was hashed.
    """

    def __init__(self, key: bytes | None = None, *, keep: bool = False) -> None:
        self.key = key or secrets.token_bytes(_KEY_BYTES)
        self.keep = keep
        self.used = False

    def patient(self, patient_id: str) -> str:
        """The patient's name."""
        return patient_id if self.keep else f"p{self._hash('patient', patient_id)}"

    def study(self, study_uid: str) -> str:
        """The study's name."""
        return study_uid if self.keep else f"s{self._hash('study', study_uid)}"

    def _hash(self, kind: str, text: str) -> str:
        self.used = True
        message = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:_DIGITS]


def key_file(manifest: str | Path) -> Path:
    """Where a manifest's key lies."""
    return Path(f"{manifest}.key")


def read_key(path: str | Path) -> bytes:
    """Read a key file.

    Raises:
        DataError: it is not there, or holds no key.
    """
    try:
        text = Path(path).read_bytes().decode("ascii").strip()
        if re.fullmatch(rf"[0-9a-f]{{{2 * _KEY_BYTES}}}", text):
            return bytes.fromhex(text)
        problem = f"not {2 * _KEY_BYTES} hexadecimal digits"
    except OSError as error:
        problem = str(error.strerror)
    except UnicodeDecodeError:
        problem = "not a text"
    raise DataError(
        f"the key of the ids cannot be read ({problem})",
        where=path,
        remedy="Give the .key file of the manifest whose patients are to be found again",
        kind="bad_key",
    )


def write_key(path: str | Path, key: bytes) -> None:
    """Write a key file that nobody else can read; one that is there stays.

    Raises:
        DataError: it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{key.hex()}\n")
    except FileExistsError:
        return
    except OSError as error:
        raise DataError(
            f"cannot write ({error.strerror})", where=path, remedy="Choose another --output"
        ) from error
