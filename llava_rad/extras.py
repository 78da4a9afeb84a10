"""What is installed beside the core: which extra brings a package, and the command for it.

The core writes reports, encodes images and reads data sets. Modules of the extras are imported
where they are used, so that everything else works without them.
"""

import importlib.util

from llava_rad.errors import LlavaRadError

#: Extra, and what it installs beside the core, under the names that are imported.
EXTRAS = {
    "train": ("accelerate", "datasets", "matplotlib", "peft", "sklearn", "tensorboard"),
    "eval": (
        *("accelerate", "datasets", "evaluate", "matplotlib", "nltk", "radgraph"),
        *("rouge_score", "sacrebleu", "scipy", "sklearn"),
    ),
    "quantize": ("accelerate", "bitsandbytes", "peft"),
    "formats": ("fpdf", "highdicom", "matplotlib"),
    "listen": ("pynetdicom",),
    "serve": ("fastapi", "prometheus_client", "python_multipart", "uvicorn"),
    "deepspeed": ("deepspeed",),
    "dicom-gpl": ("libjpeg",),
}


class MissingExtraError(LlavaRadError, ImportError):
    """A package is not installed; the message has the command. An ImportError, as Python has it."""


def command(*extras: str) -> str:
    """The command that installs extras."""
    return f"pip install 'llava-rad[{','.join(extras)}]'"


def is_installed(extra: str) -> bool:
    """Whether all packages of an extra are there."""
    return not _absent(extra)


def require(extra: str, purpose: str) -> None:
    """See that the packages of an extra are there, before work begins that needs them.

    Args:
        extra: one of :data:`EXTRAS`.
        purpose: what they are needed for, the beginning of a sentence: "training".

    Raises:
        MissingExtraError: one is not.
    """
    absent = _absent(extra)
    if absent:
        raise MissingExtraError(
            f"{purpose} needs packages that are not installed ({', '.join(absent)})",
            remedy=f"Run: {command(extra)}",
            kind="missing_package",
        )


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error for people where an import failed, or None if it is no package of an extra."""
    module = (error.name or "").split(".")[0]
    extras = [extra for extra, modules in EXTRAS.items() if module in modules]
    if not extras:
        return None
    return MissingExtraError(
        f"the package {module} is not installed",
        remedy=f"Run: {' or '.join(command(extra) for extra in extras)}",
        kind="missing_package",
    )


def _absent(extra: str) -> list[str]:
    return [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]
