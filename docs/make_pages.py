"""What pages of the documentation take from the code itself, for ``mkdocs build``.

- ``<!-- data-sets -->`` becomes a section for each adapter, ``<!-- weights KIND -->`` and
  ``<!-- metrics -->`` the tables of what is known to the package;
- ``<!-- presets -->`` becomes a section for each preset of published numbers;
- ``<!-- docstring MODULE -->`` becomes the text of a module's docstring;
- each notebook becomes a page of its text and code.

So a fact stands in one place, and a page cannot tell what the code does not do.
"""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

MARK = re.compile(r"^<!-- ([a-z-]+)(?: ([\w.]+))? -->$", re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for each notebook; the notebook itself stays, to be downloaded."""
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        page = File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path))
        files.append(page)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page."""
    return MARK.sub(lambda mark: PARTS[mark[1]](*([mark[2]] if mark[2] else [])), markdown)


class PlainDocstrings(griffe.Extension):
    """Docstrings of the API pages as mkdocstrings reads them: no roles, examples as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring:
            text = plain(obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def plain(text: str) -> str:
    """A docstring as Markdown: roles as code."""
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)


def notebook_page(path: Path) -> str:
    """A notebook's cells as Markdown, with a link to the notebook."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    parts.insert(1, f"[Download the notebook]({path.name}); `make check` runs it.")
    return "\n\n".join(parts) + "\n"


def docstring(module: str) -> str:
    """The docstring of a module, without its marks."""
    return plain(inspect.getdoc(importlib.import_module(module)) or "")


def data_sets() -> str:
    """A section for each adapter: what it reads, the layout, its options."""
    from llava_rad.data.adapters import ADAPTERS, explained_options

    parts = []
    for name, reader in ADAPTERS.items():
        options = explained_options(name)
        rows = [f"| `-O {option}={default}` | {text} |" for option, default, text in options]
        table = ["| option | what |", "|---|---|", *rows] if rows else ["No options of its own."]
        parts += [f"## {name}", docstring(reader.__module__), "\n".join(table)]
    return "\n\n".join(parts)


def weights(kind: str) -> str:
    """The weights of one kind that are known by name."""
    from llava_rad.inventory import list_weights

    rows = [f"| `{one.name}` | {one.about} |" for one in list_weights() if one.kind == kind]
    return "\n".join(["| name | what |", "|---|---|", *rows])


def metrics() -> str:
    """Each metric's definition and range, as every result states it."""
    from llava_rad.metrics.score import DEFAULT_METRICS, DEFINITIONS

    rows = [
        f"| `{name}` | {text} | {'yes' if name in DEFAULT_METRICS else 'when asked for'} |"
        for name, text in DEFINITIONS.items()
    ]
    return "\n".join(["| name | definition | computed by default |", "|---|---|---|", *rows])


def presets() -> str:
    """Each preset: what it reproduces, from where, what it sets, and its columns."""
    from llava_rad.evaluation.presets import PRESETS, AppliedPreset, load_preset

    parts = []
    for name in PRESETS:
        preset = load_preset(name)
        facts = AppliedPreset(name, preset).facts()
        said = [f"| {key} | {facts[key]} |" for key in ("reproduces", "source", "checked", "open")]
        said += [f"| {key.replace('_', ' ')} | {value} |" for key, value in facts["set"].items()]
        columns = [
            f"| {column.name} | `{column.value}` | {column.printed}"
            + ("" if column.scale == 1 else f", times {column.scale:g}")
            + " |"
            for column in preset.columns
        ]
        parts += [
            f"### {name}",
            "\n".join(["| | |", "|---|---|", *said]),
            "\n".join(["| column | is | printed |", "|---|---|---|", *columns]),
        ]
    return "\n\n".join(parts)


PARTS: dict[str, Any] = {
    "presets": presets,
    "data-sets": data_sets,
    "docstring": docstring,
    "metrics": metrics,
    "weights": weights,
}
