"""The arguments of a training program, read before anything heavy is imported."""

from dataclasses import dataclass, field
from pathlib import Path

from llava_rad.cli.command import program_app
from llava_rad.cli.options import Config, Overrides
from llava_rad.ending import program_ending


@dataclass(frozen=True)
class TrainingArguments:
    """What a training is started with.

    Attributes:
        config: the YAML file.
        overrides: ``key=value`` texts.
    """

    config: Path
    overrides: list[str] = field(default_factory=list)


def read_arguments(
    text: str | None, program: str, kind: str, arguments: list[str] | None = None
) -> TrainingArguments:
    """Read the command line; ``--help`` and wrong usage end the process.

    Args:
        text: for ``--help``.
        program: the file, as its text names it.
        kind: the folder of ``configs/`` in which names are looked up.
        arguments: of the command line; None takes the process's own.
    """
    given: list[TrainingArguments] = []

    def main(config: Config, overrides: Overrides = None) -> None:
        from llava_rad.programs import find_config

        with program_ending(extra="train"):
            given.append(TrainingArguments(find_config(config, kind), overrides or []))

    try:
        program_app(main, text, program)(arguments)
    except SystemExit as ended:
        if ended.code or not given:
            raise
    return given[0]
