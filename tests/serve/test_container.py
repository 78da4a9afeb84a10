"""The container's files: what they run exists, and the archive in them sends and gets reports."""

import io
import json
import os
import re
import shutil
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import pytest
import typer
import yaml
from helpers.report_documents import IDENTIFYING, write_image
from helpers.waiting import free_port, wait_for
from pydicom import dcmread

from llava_rad.cli import app

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "container"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
OURS = {n: s for n, s in COMPOSE["services"].items() if s["image"] == "llava-rad"}


def parse(arguments):
    """What the command line makes of arguments, without running anything."""
    group = typer.main.get_command(app)
    command = group.get_command(None, arguments[0])
    return command.make_context(arguments[0], list(arguments[1:])).params


def last(instruction):
    """The last instruction of its kind, as JSON."""
    return json.loads(re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])


def test_what_the_image_runs_is_a_command():
    assert last("ENTRYPOINT") == ["llava-rad"]
    parameters = parse(last("CMD"))
    assert parameters["host"] == "0.0.0.0"
    assert str(parameters["port"]) in re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[1]
    assert f"127.0.0.1:{parameters['port']}/health" in DOCKERFILE


def test_what_the_image_is_made_of_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {e for line in re.findall(r"extras=([\w,]+)", DOCKERFILE) for e in line.split(",")}
    assert named and named <= set(extras["optional-dependencies"])
    for source in re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE):
        assert (ROOT / source).exists()
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert not {"training", "eval", "configs", "llava_rad", "README.md", "LICENSE"} & set(ignored)
    assert re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE) == ["10001"]


@pytest.mark.parametrize("name", OURS)
def test_the_services_run_commands_of_ours(name):
    service = OURS[name]
    parameters = parse(service["command"])
    for published in service.get("ports", []):
        address, _, inside = published.rsplit(":", 2)
        assert address == "127.0.0.1" and int(inside) == parameters["port"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    build = service["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()


def test_the_services_name_files_volumes_networks_and_each_other():
    services = COMPOSE["services"]
    for service in services.values():
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", [])) <= set(services)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (FOLDER / source).is_file() if source.startswith(".") else True
            assert there and (source.startswith(".") or source in COMPOSE["volumes"])
    archive = json.loads((FOLDER / "orthanc.json").read_text())
    title, host, port = archive["DicomModalities"]["llava-rad"]
    listening = parse(services["listen"]["command"])
    assert (title, port) == (listening["title"], listening["port"]) and host == "listen"
    assert listening["send_to"] == f"{archive['DicomAet']}@archive:{archive['DicomPort']}"
    assert list(listening["allow_title"]) == [archive["DicomAet"]]
    assert "'llava-rad'" in (FOLDER / "orthanc.lua").read_text()


def needs(*programs):
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


@pytest.mark.check
def test_the_linter_has_nothing_to_say():
    needs("hadolint")
    done = subprocess.run(
        ["hadolint", FOLDER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def archive_on_this_machine(folder, our_port, ports):
    """Its configuration with the paths and addresses of this machine."""
    values = json.loads((FOLDER / "orthanc.json").read_text())
    title = values["DicomModalities"]["llava-rad"][0]
    values |= {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "DicomModalities": {"llava-rad": [title, "127.0.0.1", our_port]},
        "LuaScripts": [str(FOLDER / "orthanc.lua")],
        "RemoteAccessAllowed": False,
    }
    (folder / "orthanc.json").write_text(json.dumps(values))
    return folder / "orthanc.json"


def asked(port, path):
    """What the archive's REST interface says."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, f"http://127.0.0.1:{port}", "admin", "secret")
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read()


@pytest.mark.check
def test_the_archive_sends_radiographs_and_gets_their_reports(start, tmp_path):
    """With Debian's orthanc and dcmtk in the place of the containers."""
    needs("Orthanc", "storescu")
    ports = [free_port(), free_port()]
    listening = COMPOSE["services"]["listen"]["command"]
    own = {"--host": "127.0.0.1", "--port": "0", "--allow-host": "127.0.0.1",
           "--send-to": f"ORTHANC@127.0.0.1:{ports[1]}", "--output": tmp_path / "out"}  # fmt: skip
    named = [option.partition("=") for option in listening[1:]]
    options = [f"{n}={own.get(n, v)}" if s else n for n, s, v in named]
    process = start("listen", *options, "--format", "dicom-sr", ready="listening as")
    port = int(re.search(r"on 127.0.0.1:(\d+)", process.log.read_text())[1])
    config = archive_on_this_machine(tmp_path, port, ports)
    with (tmp_path / "archive.log").open("wb") as log:
        archive = subprocess.Popen(
            ["Orthanc", config],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"ORTHANC_PASSWORD": "secret"},
        )
    try:
        wait_for(lambda: "Orthanc has started" in (tmp_path / "archive.log").read_text())
        image = write_image(tmp_path / "scan", 1)
        sent = ["storescu", "-aec", "ORTHANC", "127.0.0.1", str(ports[1]), str(image)]
        subprocess.run(sent, check=True, capture_output=True)
        wait_for(lambda: len(json.loads(asked(ports[0], "/instances"))) == 2)
        kept = [
            dcmread(io.BytesIO(asked(ports[0], f"/instances/{instance}/file")))
            for instance in json.loads(asked(ports[0], "/instances"))
        ]
        assert sorted(one.Modality for one in kept) == ["DX", "SR"]
        assert len({one.StudyInstanceUID for one in kept}) == 1
        assert {one.PatientID for one in kept} == {IDENTIFYING["PatientID"]}
        assert len(json.loads(asked(ports[0], "/studies"))) == 1
    finally:
        archive.terminate()
        archive.wait()
