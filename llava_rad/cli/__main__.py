"""``python -m llava_rad.cli``."""

from llava_rad.cli.app import main

if __name__ == "__main__":
    main()
