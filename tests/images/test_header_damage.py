"""Headers with rubbish in them: the picture is read all the same, and nothing private is quoted."""

import io
import logging

import numpy as np
import pydicom
import pytest
from pydicom import uid as uids
from pydicom.dataset import Dataset

from llava_rad.errors import ImageError
from llava_rad.images import load_radiograph

# Marks in every element that names or describes a person; no word of them may come out.
PRIVATE = {
    "PatientName": "MARKNAME^MARKFIRST",
    "PatientID": "MARKID",
    "PatientBirthDate": "19991231",
    "StudyDate": "19981130",
    "AccessionNumber": "MARKACC",
    "ReferringPhysicianName": "MARKDOC^WHO",
    "InstitutionName": "MARKPLACE",
    "StudyDescription": "MARKSTUDY",
    "SeriesDescription": "MARKSERIES",
    "ImageComments": "MARKNOTE",
    "ProtocolName": "MARKPROTOCOL",
}


def words_of(values):
    return [part for value in values for part in value.split("^")]


def raw_element(group, element, vr, value):
    value += b" " * (len(value) % 2)
    return (
        group.to_bytes(2, "little")
        + element.to_bytes(2, "little")
        + vr
        + len(value).to_bytes(2, "little")
        + value
    )


def with_raw(data, group, element, vr, value):
    """Return a file with one more element, put in its place."""
    new = raw_element(group, element, vr, value)
    start = 144 + int.from_bytes(data[140:144], "little")
    position = start
    while True:
        tag = (
            int.from_bytes(data[position : position + 2], "little"),
            int.from_bytes(data[position + 2 : position + 4], "little"),
        )
        if tag >= (group, element):
            break
        long = data[position + 4 : position + 6] in (b"SQ", b"OB", b"OW", b"UN", b"UT")
        place = slice(position + 8, position + 12) if long else slice(position + 6, position + 8)
        position = place.stop + int.from_bytes(data[place], "little")
    end = position
    if tag == (group, element):
        end = position + 8 + int.from_bytes(data[position + 6 : position + 8], "little")
    return data[:position] + new + data[end:]


# ---- an element that nobody needs ----------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"ISO_IR 100\0\0rubbish\0",
        b"\0\0\0\0",
        b"\xff\xfe\x80\x81",
        b"ISO_IR 999",
        b"\\\\\\",
        b"ISO 2022 IR 87\\rubbish",
        b"x" * 3000,
        b"utf_8\0",
        b"hex",
    ],
)
def test_rubbish_in_the_character_set(phantom, minmax_of, make_dicom, value):
    data = make_dicom(phantom, PatientName="A^B", ViewCodeSequence=[Dataset()])
    radiograph = load_radiograph(with_raw(data, 0x0008, 0x0005, b"CS", value))
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.view == "frontal"
    assert radiograph.warnings == ()


@pytest.mark.parametrize(
    "group, element, vr, value",
    [
        (0x0008, 0x0020, b"DA", b"no date"),
        (0x0008, 0x0018, b"UI", b"not an identifier"),
        (0x0008, 0x2111, b"ST", b"\x1b$B\x80\xff"),
        (0x0008, 0x0008, b"CS", b"\0" * 40),
        (0x0010, 0x0010, b"PN", b"a=b=c=d=e^^^^^^^^^^"),
        (0x0010, 0x1010, b"AS", b"old"),
        (0x0018, 0x1152, b"IS", b"9" * 60),
        (0x0018, 0x0060, b"DS", b"1,5"),
        (0x0018, 0x1401, b"ZZ", b"??"),
        (0x0018, 0x1063, b"FD", b"123"),
        (0x0020, 0x0013, b"IS", b"1.7"),
        (0x0020, 0x0020, b"CS", b"\xc3\x28"),
        (0x0028, 0x0009, b"AT", b"abc"),
        (0x0028, 0x0030, b"DS", b"a\\b"),
        (0x0028, 0x0034, b"IS", b"1"),
        (0x0028, 0x0106, b"US", b"a"),
        (0x0028, 0x2110, b"CS", b"\xff\xff"),
        (0x0029, 0x1010, b"UN", b""),
        (0x0018, 0x1602, b"IS", b"left"),
        (0x6000, 0x0102, b"US", b"x"),
    ],
)
def test_rubbish_in_an_element(phantom, minmax_of, make_dicom, group, element, vr, value):
    if vr == b"UN":
        data = with_raw(make_dicom(phantom), 0x0029, 0x1010, b"LO", b"\\" * 200)
    else:
        data = with_raw(make_dicom(phantom), group, element, vr, value)
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.view == "frontal"
    assert radiograph.warnings == ()


@pytest.mark.parametrize("inside", [b"rubbish, not an item", b"\xfe\xff\x00\xe0\x08\0\0\0abc"])
def test_a_broken_sequence_of_undefined_length(phantom, minmax_of, make_dicom, inside):
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + inside + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = make_dicom(phantom, BodyPartExamined="KNEE")
    place = data.index(b"\x18\0\x15\0CS")
    radiograph = load_radiograph(data[:place] + sequence + data[place:])
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert [w.split(":")[0] for w in radiograph.warnings] == ["body_part"]  # what follows is read


def test_a_needed_element_that_cannot_be_read_is_named(phantom, make_dicom):
    data = with_raw(make_dicom(phantom), 0x0028, 0x0010, b"DS", b"many")
    with pytest.raises(ImageError, match=r"Rows \(0028,0010\) is missing or unreadable"):
        load_radiograph(data)


def test_elements_behind_the_pixel_data_count(phantom, minmax_of, make_dicom):
    data = make_dicom(phantom)
    late = raw_element(0x0028, 0x0120, b"US", (200).to_bytes(2, "little"))
    radiograph = load_radiograph(data + late)
    assert radiograph.photometric["padding"] == [200, 200]


@pytest.mark.parametrize("value, said", [("0", "0"), ("-3", "-3"), ("abc", "unreadable")])
def test_an_odd_number_of_frames_is_one(phantom, minmax_of, make_dicom, value, said):
    data = with_raw(make_dicom(phantom), 0x0028, 0x0008, b"IS", value.encode())
    radiograph = load_radiograph(data)
    assert np.array_equal(radiograph.pixels, minmax_of(phantom))
    assert radiograph.warnings == (f"number_of_frames: Number of Frames is {said}; read as 1",)


# ---- nothing private comes out -------------------------------------------------------------


@pytest.fixture
def private_dicom(make_dicom):
    """A file full of marks, large enough that a swallowed header leaves a whole picture."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "R", "SRT", "postero-anterior"

    def private_dicom(syntax=uids.ExplicitVRLittleEndian, **elements):
        values = np.add.outer(20 * np.arange(34), 60 * np.arange(40)).astype(np.uint16) + 400
        known = {"Modality": "DX", "BodyPartExamined": "CHEST", "ImageLaterality": "U"}
        known |= {"WindowCenter": 2000, "WindowWidth": 3000, "VOILUTFunction": "LINEAR"}
        known |= {"PresentationLUTShape": "IDENTITY", "PresentationIntentType": "FOR PRESENTATION"}
        known |= {"ViewCodeSequence": [code], "RescaleSlope": 1, "RescaleIntercept": 0}
        return make_dicom(values, syntax=syntax, **(known | PRIVATE | elements))

    return private_dicom


def said_of(data, caplog, capfd):
    """Everything that comes out of reading, as one text."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        try:
            radiograph = load_radiograph(data, rendering="voi", name="upload")
        except ImageError as error:
            said = f"{error!r} {error} {error.__cause__!r}"
            assert error.__suppress_context__  # a traceback shows no words of a library
        else:
            said = " ".join(
                map(
                    str,
                    (
                        *(radiograph.warnings, radiograph.photometric, radiograph.view),
                        *(radiograph.view_position, radiograph.laterality),
                    ),
                )
            )
    out = capfd.readouterr()
    assert len(said) < 4000
    return said + out.out + out.err + caplog.text


def test_a_code_that_swallows_the_header_is_not_quoted(private_dicom, caplog, capfd):
    """The length of one code is damaged so that it reaches exactly to a later element."""
    data = private_dicom(Manufacturer="MARKMAKER")
    names = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    starts = {}
    for element in names:
        tag = element.tag
        head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
        head += element.VR.encode()
        starts[tag] = data.index(head)
    swallowed = 0
    for tag, start in starts.items():
        if names[tag].VR == "SQ":
            continue
        for end in (e for e in starts.values() if e > start):
            length = end - start - 8
            damaged = data[: start + 6] + length.to_bytes(2, "little") + data[start + 8 :]
            said = said_of(damaged, caplog, capfd)
            assert "MARK" not in said
            assert not any(word in said for word in words_of(PRIVATE.values()))
            swallowed += "cannot be read" in said or "another" in said
    assert swallowed > 10


def test_modality_that_swallows_the_header_says_so(private_dicom):
    data = private_dicom()
    start = data.index(b"\x08\0\x60\0CS")
    end = data.index(b"\x10\0\x30\0DA")
    damaged = data[: start + 6] + (end - start - 8).to_bytes(2, "little") + data[start + 8 :]
    assert b"MARKNAME" in damaged[start:end]
    assert load_radiograph(damaged).warnings == (
        "modality: Modality (0008,0060) is no code, it cannot be read",
    )


@pytest.mark.parametrize(
    "syntax", [uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian, uids.RLELossless]
)
def test_damaged_bytes_bring_nothing_private_out(private_dicom, caplog, capfd, syntax):
    data = private_dicom(syntax)
    end = len(data) - 34 * 40
    rng = np.random.default_rng(len(data))
    for position in range(132, end, 7):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        said = said_of(bytes(damaged), caplog, capfd)
        assert "MARK" not in said
        assert PRIVATE["PatientBirthDate"] not in said


def test_odd_values_are_not_quoted(private_dicom, caplog, capfd):
    item = Dataset()
    item.CodeMeaning = "left lateral of MARKNAME"
    data = private_dicom(
        Modality="MARKNAME^X",
        BodyPartExamined="MARKNAME MARKFIRST, of the clinic",
        ViewPosition="pa of MARKNAME^MARKFIRST",
        ViewCodeSequence=[item],
        Laterality="MARKNAME",
        ImageLaterality="MARKNAME",
        VOILUTFunction="MARKNAME^MARKFIRST",
        PresentationLUTShape="MARKNAME^MARKFIRST",
        PatientOrientation=["MARKNAME^", "F"],
        ShutterShape="MARKNAME^MARKFIRST",
        SOPClassUID="MARKNAME",
    )
    assert "MARK" not in said_of(data, caplog, capfd)
    for elements in (
        {"PhotometricInterpretation": "MARKNAME^A"},
        {"SOPClassUID": "MARKNAME", "Rows": 0},
        {"NumberOfFrames": "2"},
    ):
        assert "MARK" not in said_of(private_dicom(**elements), caplog, capfd)


def test_log_lines_of_other_threads_and_times_stay(phantom, make_dicom, caplog):
    data = make_dicom(phantom, PatientName="A^B")
    with caplog.at_level(logging.DEBUG):
        load_radiograph(with_raw(data, 0x0008, 0x0005, b"CS", b"rubbish"))
        assert not caplog.records
        logging.getLogger("pydicom").warning("said outside of reading")
    assert [record.message for record in caplog.records] == ["said outside of reading"]
