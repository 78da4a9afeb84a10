"""How figures and pages look: one set of colours, fonts and rules for all of them.

:mod:`~llava_rad.appearance.figures` is for pictures drawn with matplotlib,
:mod:`~llava_rad.appearance.pages` for pages of HTML. Both import their library where it is used.
"""
