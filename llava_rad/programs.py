"""Where the programs and their configurations lie: in a checkout, or inside the installed package.

A checkout has ``training/``, ``eval/`` and ``configs/`` at its top. The wheel carries the same
folders as ``llava_rad/recipes/``.
"""

import difflib
from pathlib import Path

from llava_rad.errors import ConfigError

#: Folders of ``configs/`` and what they configure.
CONFIG_KINDS = {
    "report": "training of a report model",
    "encoder": "pretraining of an encoder",
    "eval": "comparison of encoders",
    "ablation": "pretrainings with one thing changed",
    "accelerate": "launching on several GPUs",
    "mini": "the bundled model",
}


def recipes() -> Path:
    """The folder that holds ``training``, ``eval`` and ``configs``.

    Raises:
        ConfigError: the installation is without them.
    """
    package = Path(__file__).parent
    for folder in (package / "recipes", package.parent):
        if (folder / "training" / "train_report.py").is_file():
            return folder
    raise ConfigError(
        "this installation holds no programs",
        where=package,
        remedy="Install llava-rad again from its wheel, or work in a checkout",
    )


def program(name: str) -> Path:
    """The file of a program, such as ``eval/run.py``."""
    return recipes() / name


def config_names() -> dict[str, Path]:
    """All configurations that come with the project: ``KIND/NAME`` and the file of each."""
    folder = recipes() / "configs"
    return {
        f"{kind}/{path.stem}": path
        for kind in CONFIG_KINDS
        for path in sorted((folder / kind).glob("*.yaml"))
    }


def find_config(given: str | Path, kind: str) -> Path:
    """The file of a configuration.

    Args:
        given: a file, or the name of one that comes with the project (``vicuna_7b_lora``, also
            ``report/vicuna_7b_lora``).
        kind: the folder of ``configs/`` in which names are looked up.

    Raises:
        ConfigError: there is neither such a file nor such a name; close names are given.
    """
    path = Path(given)
    if path.is_file():
        return path
    known = config_names()
    text = str(given)
    for name in (text, f"{kind}/{text}"):
        if name in known:
            return known[name]
    names = [name.removeprefix(f"{kind}/") for name in known if name.startswith(f"{kind}/")]
    close = difflib.get_close_matches(path.stem, names, n=2, cutoff=0.6)
    raise ConfigError(
        "there is neither such a file nor a configuration of this name",
        where=text,
        remedy=(f"Did you mean {' or '.join(close)}? " if close else "")
        + f"Known: {', '.join(names)}; llava-rad configs list shows them",
        kind="unknown_config",
    )
