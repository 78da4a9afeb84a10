"""The DICOM receiver, called over loopback by pynetdicom's own SCU."""

import contextlib
import io

import pytest
from helpers.dicom_files import dicom_bytes
from helpers.report_documents import IDENTIFYING, SECRETS, write_image
from pydicom import dcmread
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from llava_rad.errors import ConfigError, DataError
from llava_rad.serve import listener as module
from llava_rad.serve.arrivals import Arrivals
from llava_rad.serve.listener import Listener, listen
from llava_rad.serve.sender import Peer, Sender

pynetdicom = pytest.importorskip("pynetdicom")

SUCCESS, NO_ROOM, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000


@pytest.fixture
def listening(tmp_path):
    """Starts a listener; gives it and what it says."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            said = []
            settings = {"title": "LLAVA_RAD", "host": "127.0.0.1", "port": 0, "most_bytes": 10**9}
            made = Listener(tmp_path / "received", **settings | options, say=said.append)
            made.said = said
            return stack.enter_context(made)

        yield start


def call(listener, *datasets, called="LLAVA_RAD", calling="MODALITY"):
    """Sends images; gives the status of each, or how the association ended."""
    entity = pynetdicom.AE(calling)
    entity.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", listener.port, ae_title=called)
    if not association.is_established:
        return "rejected" if association.is_rejected else "aborted"
    try:
        if not datasets:
            return association.send_c_echo().Status
        return [association.send_c_store(each).get("Status") for each in datasets]
    finally:
        association.release()


def image(seed=0, **elements):
    values = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2", "ViewPosition": "PA"}
    return dcmread(io.BytesIO(dicom_bytes(seed=seed, **values | IDENTIFYING | elements)))


def test_echo_is_answered_and_images_are_on_the_disk_when_they_are_acknowledged(listening):
    listener = listening()
    assert call(listener) == SUCCESS
    assert call(listener, image(1), image(2), image(1)) == [SUCCESS] * 3
    files = sorted(listener.folder.glob("*"))
    assert len(files) == 2
    assert {dcmread(file).SOPInstanceUID for file in files} == {
        image(seed).SOPInstanceUID for seed in (1, 2)
    }
    assert listener.folder.stat().st_mode & 0o077 == 0
    assert not any(secret in " ".join(listener.said) for secret in SECRETS)


def test_only_those_that_may_call_are_heard(listening, monkeypatch):
    listener = listening(titles=["FRIEND"])
    assert call(listener, image(), calling="STRANGER") == "rejected"
    assert call(listener, image(), calling="FRIEND", called="OTHER") == "rejected"
    assert call(listener, image(), calling="FRIEND") == [SUCCESS]


def test_hosts_that_may_not_call_are_refused(listening):
    listener = listening(hosts=["127.0.0.2"])
    assert call(listener, image()) == "rejected"
    assert listener.said == ["refused: 127.0.0.1 is no allowed host"]
    assert not list(listener.folder.iterdir())
    allowed = listening(hosts=["localhost"])
    assert call(allowed, image()) == [SUCCESS]
    with pytest.raises(ConfigError, match=r"--allow-host no\.such\.host"):
        listening(hosts=["no.such.host.invalid"])


def test_what_does_not_fit_is_refused_and_later_taken(listening):
    size = len(dicom_bytes())
    listener = listening(most_bytes=2 * size)
    assert call(listener, image(1), image(2)) == [SUCCESS, NO_ROOM]
    assert "no room" in listener.said[0]
    next(listener.folder.glob("*.dcm")).unlink()
    assert call(listener, image(2)) == [SUCCESS]


def test_an_image_over_the_bound_ends_the_association(listening, monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGE_BYTES", 12_000)
    listener = listening()
    assert call(listener, image(1), image(2)) == [SUCCESS] * 2  # counted one by one
    large = image(3, PatientComments="x" * 10_000)
    assert call(listener, large) == [None]
    assert "sends an image of over 12000 bytes" in listener.said[0]
    assert len(list(listener.folder.glob("*.dcm"))) == 2


def test_an_image_without_a_study_is_not_kept(listening):
    listener = listening()
    assert call(listener, image(StudyInstanceUID=None)) == [NOT_UNDERSTOOD]
    assert not list(listener.folder.iterdir())


def test_a_full_disk_is_told_to_the_sender(listening, monkeypatch):
    listener = listening()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_bytes", full)
    assert call(listener, image()) == [NO_ROOM]
    assert "No space left" in listener.said[0]


def test_a_port_that_is_taken_is_one_line(listening):
    port = listening().port
    with pytest.raises(DataError, match=f"127.0.0.1:{port}: cannot listen"):
        listening(port=port)


def test_received_studies_are_reported_sent_back_and_deleted(listening, open_results, tmp_path):
    listener, output, said = listening(), tmp_path / "out", []
    stored = []

    def keep(event):
        stored.append(event.dataset)
        return archive.status

    archive = pynetdicom.AE("ARCHIVE")
    archive.status = NO_ROOM
    archive.add_supported_context("1.2.840.10008.5.1.4.1.1.88.22", ExplicitVRLittleEndian)
    server = archive.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, keep)]
    )
    peer = Peer.parse(f"ARCHIVE@127.0.0.1:{server.socket.getsockname()[1]}", "--send-to")
    now = [0.0]

    class StopError(Exception):
        pass

    def run(rounds):
        """The process from its start until it is stopped."""
        count = iter(range(rounds))

        def pause(seconds):
            now[0] += 31
            if next(count, None) is None:
                raise StopError

        with contextlib.ExitStack() as stack, pytest.raises(StopError):
            results = open_results(
                stack, listener.folder, output, "dicom-sr", keep=True, send=True, said=said
            )
            sender = Sender(
                peer, "LLAVA_RAD", results.journal, output, said.append, clock=lambda: now[0]
            )
            listen(listener, results, quiet=0, sender=sender, pause=pause)

    try:
        assert call(listener, image(1)) == [SUCCESS]
        run(1)
        assert len(stored) >= 1 and "its status is A700" in " ".join(said)
        assert not list(listener.folder.glob("*.dcm"))
        archive.status = SUCCESS
        stored.clear()
        run(1)  # after a restart what was not sent is sent, once
        run(1)
        [report] = stored
        assert (report.PatientID, report.StudyInstanceUID) == ("MRN-77", "1.2.3.1")
        assert len(list(output.glob("*.dcm"))) == 1
        # A view that comes late is reported by itself, beside the first report.
        assert call(listener, image(2)) == [SUCCESS]
        run(1)
        assert len(stored) == 2 and len(list(output.glob("*-2.dcm"))) == 1
    finally:
        server.shutdown()
    assert not any(secret in " ".join(said) for secret in SECRETS)


def test_what_was_reported_before_a_stop_is_deleted_at_the_next_start(open_results, tmp_path):
    folder, output = tmp_path / "received", tmp_path / "out"
    path = write_image(folder, 1)
    with contextlib.ExitStack() as stack:
        open_results(stack, folder, output, "text").take(Arrivals(folder, 0).look())
    assert path.exists()

    def stop(_):
        raise KeyboardInterrupt

    class Running:
        pass

    Running.folder = folder
    with contextlib.ExitStack() as stack, pytest.raises(KeyboardInterrupt):
        results = open_results(stack, folder, output, "text")
        listen(Running(), results, quiet=0, pause=stop)
    assert not path.exists() and results.written == 0


@pytest.mark.parametrize(
    "text", ["ARCHIVE", "A@h", "A@h:0", "A@h:99999", "@h:1", "A" * 17 + "@h:1"]
)
def test_a_wrong_peer_is_refused(text):
    with pytest.raises(ConfigError, match="--send-to"):
        Peer.parse(text, "--send-to")
