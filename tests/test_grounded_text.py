"""MAIRA-2's text with boxes: written, read strictly and leniently, and its words recovered."""

import pytest

from llava_rad.boxes import Box
from llava_rad.errors import DataError
from llava_rad.grounded_text import (
    GroundedPhrase,
    ground_text,
    growing_text,
    read_grounded,
    write_grounded,
)

NODULE = "<obj>There is a nodule.<box><x55><y45><x70><y56></box></obj>"
PLAIN = "<obj>The heart is normal.</obj>"


def test_the_published_example_is_read_as_its_processor_does() -> None:
    """Middle of each of 100 parts, as in the example of MAIRA-2's processing code."""
    read = read_grounded(
        "<obj>grounded phrase <box><x55><y45><x70><y56></box></obj><obj>ungrounded phrase</obj>",
        strict=True,
    )
    assert read.text == "grounded phrase ungrounded phrase"
    first, second = read.phrases
    assert first.boxes == (Box(0.555, 0.455, 0.705, 0.565),)
    assert (first.start, first.end) == (0, 15)
    assert read.text[second.start : second.end] == "ungrounded phrase" and second.boxes == ()


def test_writing_then_reading_keeps_words_and_boxes_to_half_a_part() -> None:
    boxes = [Box(0.29, 0.0, 0.57, 1.0), Box(0.101, 0.5, 0.104, 0.507)]
    text = write_grounded([("Two nodules, 5 mm < 1 cm.", boxes), ("No effusion.", [])])
    assert text.startswith("<obj>Two nodules, 5 mm < 1 cm.<box><x29><y0><x57><y99></box>")
    read = read_grounded(text, strict=True)
    assert read.text == "Two nodules, 5 mm < 1 cm. No effusion." and read.malformed == 0
    for written, back in zip(boxes, read.phrases[0].boxes, strict=True):
        for edge in ("x_min", "y_min", "x_max", "y_max"):
            assert abs(getattr(written, edge) - getattr(back, edge)) <= 0.01


def test_a_report_gets_its_sentences_boxes() -> None:
    text = "The heart is normal. There is a nodule. A scar. No effusion."
    box, scar = Box(0.55, 0.45, 0.7, 0.56), Box(0.1, 0.1, 0.2, 0.2)
    found = ground_text(text, [("There is a  nodule.", box), ("Not said.", scar)])
    assert found == f"{PLAIN}{NODULE}<obj>A scar.</obj><obj>No effusion.</obj>"
    # A statement of two sentences stays one phrase.
    found = ground_text(text, [("There is a nodule. A scar.", box)])
    assert found.count("<obj>") == 3
    assert "There is a nodule. A scar.<box>" in found
    assert read_grounded(found, strict=True).text == text


def test_text_without_marks_is_left_as_it_is() -> None:
    text = "  SpO2 <90%.\n\nLungs  are clear; a <b> and <x> are no marks. "
    for strict in (False, True):
        read = read_grounded(text, strict=strict)
        assert (read.text, read.phrases, read.malformed) == (text, (), 0)
        assert [*read.places] == [*range(len(text))]


@pytest.mark.parametrize(
    ("text", "words", "boxes", "malformed"),
    [
        (NODULE[:-6], "There is a nodule.", 1, 0),  # cut off before the end
        (NODULE[:-12], "There is a nodule.", 0, 1),  # cut off within a box
        ("<obj>A.<box><x5><y5><x9></box></obj>", "A.", 0, 1),  # three edges
        ("<obj>A.<box><x9><y5><x5><y9></box></obj>", "A.", 0, 1),  # out of order
        ("<obj>A.<box><y9><x5><y5><x9></box></obj>", "A.", 0, 1),  # x and y exchanged
        ("<obj>A.<box><x1><y1><x100><y9></box></obj>", "A.", 0, 1),  # beyond the 100 parts
        ("<obj>A.</obj><box><x1><y1><x2><y2></box> B.", "A. B.", 1, 0),  # behind its sentence
        ("<box><x1><y1><x2><y2></box><obj>A.</obj>", "A.", 0, 1),  # before any
        ("A.<x1><y1> B.", "A. B.", 0, 1),  # edges without a box
        ("<obj>A.<box>here</box></obj>", "A. here", 0, 2),  # words in a box
        ("Free. <obj>A.</obj>Free.", "Free. A. Free.", 0, 0),
        ("<obj><obj>A.</obj></obj></box>", "A.", 0, 1),
    ],
)
def test_mistakes_of_models_are_read_and_counted(
    text: str, words: str, boxes: int, malformed: int
) -> None:
    read = read_grounded(text)
    assert (read.text, sum(len(p.boxes) for p in read.phrases)) == (words, boxes)
    assert read.malformed == malformed
    with pytest.raises(DataError, match="not of the form of grounded findings"):
        read_grounded(text, strict=True)


def test_places_lead_back_to_what_was_generated() -> None:
    text = f" {PLAIN} {NODULE}"
    read = read_grounded(text)
    for place, letter in zip(read.places, read.text, strict=True):
        assert letter.isspace() or text[place] == letter


@pytest.mark.parametrize("text", [NODULE + PLAIN, "<obj>A.<box>here</box> b</obj>", "x <90 <b"])
def test_a_growing_text_is_never_taken_back(text: str) -> None:
    whole, told = read_grounded(text).text, ""
    for end in range(len(text) + 1):
        now = growing_text(text[:end])
        assert now.startswith(told) and whole.startswith(now)
        told = now


def test_boxes_go_to_the_sentence_and_not_to_its_words_in_another() -> None:
    box = Box(0, 0, 0.5, 0.5)
    written = ground_text("no effusion. effusion. Clear.", [("effusion.", box), ("", box)])
    assert [(p.boxes != (), written_of(written, p)) for p in read_grounded(written).phrases] == [
        (False, "no effusion."),
        (True, "effusion."),
        (False, "Clear."),
    ]


def written_of(text: str, phrase: GroundedPhrase) -> str:
    return read_grounded(text).text[phrase.start : phrase.end]
