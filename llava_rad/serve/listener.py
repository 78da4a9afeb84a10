"""A DICOM receiver: images that an archive or a modality sends by C-STORE are reported.

Images wait in a folder of the listener, their owner's alone, until no image of their study has come
for the quiet time; when the study is reported they are deleted. An image is acknowledged when it is
on the disk, so what a sender was told is stored outlasts a crash. C-ECHO is answered.

Bounds: associations at a time, bytes of an image, bytes that wait. More is refused with the status
``A700`` (out of resources), which senders take as "try later". Log lines name the AE title and
address of the sender and count images; nothing of their headers is in them.
"""

import hashlib
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom import uid as uids

from llava_rad.errors import ConfigError, DataError
from llava_rad.files import clear_leftovers, make_folder, write_bytes
from llava_rad.images.study_header import read_study_header
from llava_rad.serve.arrivals import Arrivals
from llava_rad.serve.results import Results
from llava_rad.serve.sender import Sender
from llava_rad.serve.watch import seconds_between_looks

MOST_ASSOCIATIONS = 4
MOST_IMAGE_BYTES = 2**28  # 8192 x 8192 pixels of 16 bits are half of it
_IDLE = 60.0  # seconds after which a silent association is ended

_SOP_CLASSES = (
    uids.ComputedRadiographyImageStorage,
    uids.DigitalXRayImageStorageForPresentation,
    uids.DigitalXRayImageStorageForProcessing,
    uids.SecondaryCaptureImageStorage,
)
_TRANSFER_SYNTAXES = [
    uids.ExplicitVRLittleEndian,
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.RLELossless,
    uids.JPEGBaseline8Bit,
    uids.JPEGExtended12Bit,
    uids.JPEGLossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.JPEGLSNearLossless,
    uids.JPEG2000Lossless,
    uids.JPEG2000,
]
_SUCCESS, _NO_ROOM, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_REJECTED, _BY_USER, _CALLER_UNKNOWN = 0x01, 0x01, 0x03  # PS3.8 9.3.4


class Listener:
    """Receives images into a folder.

    Args:
        folder: made, for its owner alone.
        title: the AE title that callers must name.
        host: address to listen on.
        port: 0 takes a free one.
        titles: AE titles that may call; none lets all.
        hosts: names or addresses that may call; none lets all.
        most_bytes: that may wait in the folder.
        say: tells a person one line.

    Raises:
        ConfigError: a host is unknown.
        DataError: the address cannot be listened on, or the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        title: str,
        host: str,
        port: int,
        titles: Sequence[str] = (),
        hosts: Sequence[str] = (),
        most_bytes: int,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.title, self.host, self.port = folder, title, host, port
        self.most_bytes, self.say = most_bytes, say
        self.titles = list(titles)
        self.hosts = set(_addresses(hosts))
        self._lock = threading.Lock()
        self._server: Any = None
        self._received: dict[Any, int] = {}

    def __enter__(self) -> "Listener":
        from pynetdicom import AE, _config, evt
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        # Its own log lines quote what callers send.
        _config.LOG_HANDLER_LEVEL = "none"
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        try:
            make_folder(self.folder, private=True)
        except OSError as error:
            raise DataError(
                f"the folder cannot be made ({error.strerror})", where=self.folder
            ) from error
        clear_leftovers(self.folder)
        entity = AE(self.title)
        entity.maximum_associations = MOST_ASSOCIATIONS
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _IDLE
        entity.require_called_aet = True
        entity.require_calling_aet = self.titles
        entity.add_supported_context(Verification)
        for sop_class in _SOP_CLASSES:
            entity.add_supported_context(sop_class, _TRANSFER_SYNTAXES)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_DATA_RECV, self._data),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            self._server = entity.start_server(
                (self.host, self.port), block=False, evt_handlers=handlers
            )
        except OSError as error:
            raise DataError(
                f"cannot listen ({error.strerror or error})",
                where=f"{self.host}:{self.port}",
                remedy="Choose another --port or --host",
                kind="no_port",
            ) from error
        self.port = self._server.socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _requested(self, event: Any) -> None:
        if self.hosts and _plain(event.assoc.requestor.address) not in self.hosts:
            self.say(f"refused: {_plain(event.assoc.requestor.address)} is no allowed host")
            event.assoc.acse.send_reject(_REJECTED, _BY_USER, _CALLER_UNKNOWN)
            event.assoc.kill()  # waits until the refusal is sent, as pynetdicom's own refusals do

    def _data(self, event: Any) -> None:
        """Count what an association sends of one image; memory holds it until its end."""
        with self._lock:
            self._received[event.assoc] = self._received.get(event.assoc, 0) + len(event.data)
            too_much = self._received[event.assoc] > MOST_IMAGE_BYTES
        if too_much:
            self.say(f"ended: {_caller(event)} sends an image of over {MOST_IMAGE_BYTES} bytes")
            event.assoc.abort(block=False)

    def _closed(self, event: Any) -> None:
        with self._lock:
            self._received.pop(event.assoc, None)

    def _store(self, event: Any) -> int:
        """Write one image; the answer is given when it is on the disk."""
        with self._lock:
            self._received[event.assoc] = 0
            try:
                return self._write(event)
            except OSError as error:
                self.say(f"refused: {_caller(event)}: cannot write ({error.strerror or error})")
                return _NO_ROOM
            except Exception as error:  # whatever pydicom says of what was sent
                self.say(f"refused: {_caller(event)}: cannot be read ({type(error).__name__})")
                return _NOT_UNDERSTOOD

    def _write(self, event: Any) -> int:
        content = event.encoded_dataset()
        waiting = sum(file.stat().st_size for file in self.folder.glob("*.dcm"))
        room = shutil.disk_usage(self.folder).free
        if waiting + len(content) > self.most_bytes or 2 * len(content) > room:
            self.say(f"refused: {_caller(event)}: no room, {waiting} bytes wait for their reports")
            return _NO_ROOM
        uid = str(event.request.AffectedSOPInstanceUID)
        file = self.folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.dcm"
        write_bytes(file, content)
        header = read_study_header(file)
        if header is None or header.study_uid is None:
            file.unlink()
            self.say(f"refused: {_caller(event)}: an image without a study")
            return _NOT_UNDERSTOOD
        return _SUCCESS


def listen(
    listener: Listener,
    results: Results,
    *,
    quiet: float,
    sender: Sender | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Report each study that a running listener has received, until a signal comes.

    Args:
        listener: running.
        results: where reports go; its folder is the listener's.
        quiet: seconds without a further image after which a study is complete.
        sender: of structured reports.
        pause: waits for some seconds between two looks.

    Raises:
        DataError: nothing can be written any more; what has come waits for the next start.
    """
    arrivals = Arrivals(listener.folder, quiet)
    while True:
        for arrival in results.take(arrivals.look()):
            for file, (_, changed) in arrival.stamps.items():
                path = Path(file)
                with suppress(OSError):
                    if path.stat().st_mtime_ns == changed:  # else it came again meanwhile
                        path.unlink()
        if sender is not None:
            sender.send_all()
        pause(seconds_between_looks(quiet))


def _caller(event: Any) -> str:
    requestor = event.assoc.requestor
    return f"{requestor.ae_title} at {_plain(requestor.address)}"


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def _addresses(hosts: Iterable[str]) -> Iterable[str]:
    for host in hosts:
        try:
            yield from (str(found[4][0]) for found in socket.getaddrinfo(host, None))
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"the host is unknown ({getattr(error, 'strerror', None) or error})",
                where=f"--allow-host {host}",
                remedy="Give an address, or a name that this machine can look up",
            ) from error
