import pytest

from llava_rad.sentences import sentence_spans


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Lungs are clear. Heart is normal.", ["Lungs are clear.", "Heart is normal."]),
        ("  No effusion.\n\nLINES:\n (Tube) at T4. ", ["No effusion.", "LINES:", "(Tube) at T4."]),
        ("Seen by Dr. Smith at 5 p.m. Today", ["Seen by Dr. Smith at 5 p.m. Today"]),
        ("A nodule of 2.5 cm. no end here", ["A nodule of 2.5 cm. no end here"]),
        ("Why? None! Clear", ["Why?", "None!", "Clear"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_are_found_where_they_stand(text, sentences):
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences
