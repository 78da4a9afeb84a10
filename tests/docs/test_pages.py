"""What README and documentation name is there: commands, options, settings, errors, links."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from llava_rad.cli import app
from llava_rad.programs import config_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
URL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def commands(page):
    """The words of each llava-rad command in a page's blocks and inline code."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"(?<!`)`(llava-rad [^`]+)`(?!`)", text)
    for line in lines:
        if line.startswith("llava-rad "):
            yield shlex.split(line, comments=True)[1:]


@pytest.fixture(scope="module")
def root():
    return typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_their_options_exist(page, root):
    for words in commands(page):
        command, rest = root, words
        while hasattr(command, "list_commands") and rest and not rest[0].startswith("-"):
            found = command.get_command(None, rest[0])
            assert found, f"there is no command {' '.join(words)}"
            command, rest = found, rest[1:]
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        options = {word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)}
        assert options <= {*known, "-h", "--help", "--version"}, " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_configurations_exist(page):
    known = {part for name in config_names() for part in (name, name.split("/")[1])}
    for words in commands(page):
        for verb in (["train", "report"], ["train", "encoder"], ["plan"], ["ablate"]):
            if words[: len(verb)] == verb and len(words) > len(verb):
                name = words[len(verb)]
                assert name in known or name == "CONFIG" or name.endswith(".yaml"), words


def test_kinds_of_errors_are_those_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", page, re.MULTILINE)
    listed = {kind for row in rows for kind in re.findall(r"`(\w+)`", row)}
    assert len(listed) > 40
    files = [path for top in ("llava_rad", "training") for path in (ROOT / top).rglob("*.py")]
    code = "\n".join(path.read_text() for path in files)
    raised = set(re.findall(r'"([a-z_]+)"', code)) | {"patient_overlap"}
    assert listed <= raised, listed - raised


def test_links_of_the_index_page_are_absolute_and_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 15
    for link in links:
        assert link.startswith("https://"), link
        for start in (
            f"{URL}/blob/main/",
            URL.replace("github", "raw.githubusercontent") + "/main/",
        ):
            if link.startswith(start):
                assert (ROOT / link.removeprefix(start)).exists(), link
    assert text.count("\n") <= 150


def test_notebooks_hold_no_outputs():
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name
