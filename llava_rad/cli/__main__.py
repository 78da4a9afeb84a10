"""``python -m llava_rad.cli``."""

from llava_rad.cli.app import main

main()
