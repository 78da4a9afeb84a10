"""watch and listen as processes: signals, restarts, and dcmtk's programs over loopback."""

import re
import shutil
import signal
import subprocess

import pytest
from helpers.report_documents import IDENTIFYING, SECRETS, write_image
from helpers.waiting import PATIENCE, free_port, wait_for
from pydicom import dcmread


def stop(process, number=signal.SIGTERM):
    process.send_signal(number)
    return process.wait(PATIENCE), process.log.read_text().splitlines()[-1]


@pytest.mark.slow
def test_a_watched_folder_survives_kill_and_signal(start, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    write_image(folder, 1)
    command = ("watch", folder, "-o", output, "--format", "markdown")
    process = start(*command, ready="watching")
    wait_for(lambda: len(list(output.glob("*.md"))) == 1)
    wait_for(lambda: " -> " in process.log.read_text())
    process.kill()
    process.wait()
    write_image(folder, 2)
    process = start(*command, ready=" -> ")
    code, last = stop(process)
    assert (code, last) == (143, "stopped; 1 report was written; the same command resumes")
    assert len(list(output.glob("*.md"))) == 2


def needs(*programs):
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} of the Debian package dcmtk")


def dcmtk(program, *arguments):
    # 3.6.7 reads its dictionary from a file; -v makes refusals visible.
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


@pytest.mark.check
def test_dcmtk_sends_images_and_gets_the_report(start, tmp_path):
    needs("storescu", "echoscu", "storescp")
    archive, output = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    port = free_port()
    store = subprocess.Popen(["storescp", "-od", archive, "-aet", "ARCHIVE", str(port)])
    try:
        process = start(
            *("listen", "-o", output, "--port", 0, "--send-to", f"ARCHIVE@127.0.0.1:{port}"),
            *("--keep-identifiers", "--format", "dicom-sr", "--allow-title", "MODALITY"),
            ready="listening as",
        )
        ours = re.search(r"on 127.0.0.1:(\d+)", process.log.read_text())[1]
        callers = ("-aet", "MODALITY", "-aec", "LLAVA_RAD", "127.0.0.1", ours)
        strangers = ("-aet", "STRANGER", "-aec", "LLAVA_RAD", "127.0.0.1", ours)
        assert dcmtk("echoscu", *callers).returncode == 0
        assert dcmtk("echoscu", *strangers).returncode != 0
        image = write_image(tmp_path / "scan", 1)
        assert dcmtk("storescu", *strangers, image).returncode != 0
        sent = dcmtk("storescu", *callers, image, write_image(tmp_path / "scan", 2))
        assert sent.returncode == 0, sent.stderr
        wait_for(lambda: len(list(archive.iterdir())) == 2)
        wait_for(lambda: not list((output / ".llava-rad" / "received").glob("*.dcm")))
        code, last = stop(process, signal.SIGINT)
        assert code == 130 and "2 reports were written" in last
    finally:
        store.kill()
        store.wait()
    for file in archive.iterdir():
        report = dcmread(file)
        assert report.Modality == "SR" and report.PatientID == IDENTIFYING["PatientID"]
    log = process.log.read_text()
    assert not any(secret in log for secret in SECRETS)
