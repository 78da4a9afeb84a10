"""Structured reports go to an archive by DICOM C-STORE."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llava_rad.errors import ConfigError, DataError, LlavaRadError, shown
from llava_rad.serve.journal import Journal

_TIMEOUT = 30.0  # seconds for the network and each answer
_RETRY = 30.0  # seconds from a failed try to the next
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")


@dataclass(frozen=True)
class Peer:
    """An application entity elsewhere.

    Attributes:
        title: its AE title.
        host: name or address.
        port: of its C-STORE service.
    """

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, where: str) -> "Peer":
        """Read ``TITLE@HOST:PORT``. Raises ConfigError."""
        match = re.fullmatch(r"(.+)@([^@\s]+):(\d{1,5})", text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise ConfigError(
                f"{shown(text)} is no application entity",
                where=where,
                remedy="Write TITLE@HOST:PORT, such as ORTHANC@127.0.0.1:4242",
            )
        return cls(ae_title(match[1], where), match[2].strip("[]"), int(match[3]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def ae_title(text: str, where: str) -> str:
    """An AE title as it is used (PS3.8 9.3.2). Raises ConfigError."""
    if not _TITLE.fullmatch(text):
        raise ConfigError(
            f"{shown(text)} is no AE title",
            where=where,
            remedy="Use 1 to 16 printable ASCII characters without a backslash",
        )
    return text


def send_report(path: Path, peer: Peer, own_title: str) -> None:
    """Send one structured report.

    Args:
        path: of the DICOM file.
        peer: that is to store it.
        own_title: the AE title that calls.

    Raises:
        DataError: it was not stored (kind ``not_sent``), or the file cannot be read.
    """
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
    from pynetdicom import AE
    from pynetdicom.sop_class import EnhancedSRStorage  # type: ignore[attr-defined]

    try:
        dataset = dcmread(path)
    except Exception as error:  # deleted, or not what was written
        raise DataError(
            "the structured report cannot be read any more", where=path, kind="lost"
        ) from error
    entity = AE(own_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT
    entity.connection_timeout = _TIMEOUT
    entity.add_requested_context(
        EnhancedSRStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    )
    association = entity.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        refused = association.is_rejected
        raise _not_sent(peer, "it refuses the association" if refused else "it cannot be reached")
    try:
        status = association.send_c_store(dataset).get("Status")
    except ValueError as error:  # no accepted presentation context
        raise _not_sent(peer, "it does not take structured reports") from error
    finally:
        association.release()
    # Warnings (B000, B006, B007) say that it was stored.
    if status != 0 and (status or 0) >> 12 != 0xB:
        said = "it gave no answer" if status is None else f"its status is {status:04X}"
        raise _not_sent(peer, said)


def _not_sent(peer: Peer, why: str) -> DataError:
    return DataError(
        f"a structured report was not stored, {why}",
        where=str(peer),
        remedy="It is tried again; check title, host, port and the rights there",
        kind="not_sent",
    )


class Sender:
    """Sends what the journal has to send, in order; after a failure it waits before the next try.

    Args:
        peer: that is to store.
        own_title: the AE title that calls.
        journal: where it is noted.
        folder: that the journal's names are relative to.
        say: tells a person one line.
    """

    def __init__(
        self,
        peer: Peer,
        own_title: str,
        journal: Journal,
        folder: Path,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.peer, self.own_title, self.journal, self.folder = peer, own_title, journal, folder
        self.say, self._clock = say, clock
        self._again = 0.0

    def send_all(self) -> None:
        """Send as long as it works."""
        for name in self.journal.unsent:
            if self._clock() < self._again:
                return
            try:
                send_report(self.folder / name, self.peer, self.own_title)
            except LlavaRadError as error:
                self.say(f"error: {error}")
                if error.kind != "lost":
                    self._again = self._clock() + _RETRY
                    return
            self.journal.sent(name)
