"""``python -m llava_rad``."""

from llava_rad.cli import main

main()
