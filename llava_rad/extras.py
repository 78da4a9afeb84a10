"""What is installed beside the core: which extra brings a package, and the command for it.

The core writes reports, encodes images and reads data sets. Modules of the extras are imported
where they are used, so that everything else works without them.
"""

import importlib.util

from llava_rad.errors import LlavaRadError

#: Extra, and what it installs beside the core, under the names that are imported.
EXTRAS = {
    "formats": ("fpdf", "highdicom", "matplotlib"),
    "listen": ("pynetdicom",),
}


class MissingExtra(LlavaRadError, ImportError):  # noqa: N818 (it says what it is)
    """A package is not installed; the message has the command. An ImportError, as Python has it."""


def command(*extras: str) -> str:
    """The command that installs extras."""
    return f"pip install 'llava-rad[{','.join(extras)}]'"


def require(extra: str, purpose: str) -> None:
    """See that the packages of an extra are there, before work begins that needs them.

    Args:
        extra: one of :data:`EXTRAS`.
        purpose: what they are needed for, the beginning of a sentence: "training".

    Raises:
        MissingExtra: one is not.
    """
    absent = _absent(extra)
    if absent:
        raise MissingExtra(
            f"{purpose} needs packages that are not installed ({', '.join(absent)})",
            remedy=f"Run: {command(extra)}",
            kind="missing_package",
        )


def _absent(extra: str) -> list[str]:
    return [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]
