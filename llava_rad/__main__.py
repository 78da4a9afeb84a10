"""The command ``llava-rad``, also as ``python -m llava_rad``."""

from llava_rad.ending import leave_quietly


def main() -> None:
    """Run the command; a signal that comes while it is still being imported ends it quietly."""
    leave_quietly()
    from llava_rad.cli import main as command

    command()


if __name__ == "__main__":
    main()
