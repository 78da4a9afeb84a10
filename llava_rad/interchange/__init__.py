"""Checkpoints of other projects in, and weights for other servers out.

:func:`convert` reads what LLaVA-Rad, LLaVA 1.5, transformers' Llava and MAIRA-2 publish into a
folder that :func:`llava_rad.load` takes, and writes any of these, or a model of this project, for
transformers: for the classes of :mod:`llava_rad.hf`, or in its own Llava layout.

Every tensor of a source is accounted for, pickled files are read without running code, and what a
layout cannot say is refused with the reason instead of being approximated.
"""

from llava_rad.interchange.conversion import Conversion, Target, convert

__all__ = ["Conversion", "Target", "convert"]
