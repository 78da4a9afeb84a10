"""What the header says of display: shutters, collimators, and pixels that are not square."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from llava_rad.images import load_radiograph

SIZE = 120


def kinds(radiograph):
    return [warning.split(":")[0] for warning in radiograph.warnings]


def anatomy():
    """Values of 1000 to 1600, [120, 120]."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    return (1000 + 3 * columns + 2 * rows + 2 * ((rows + columns) % 2)).astype(np.uint16)


def bordered(shown, outside):
    return np.where(shown, anatomy(), outside).astype(np.uint16)


def rectangle(top=20, bottom=100, left=30, right=110):
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def rectangular(device="Shutter", upper=21, lower=100, left=31, right=110):
    return {
        f"{device}Shape": "RECTANGULAR",
        f"{device}UpperHorizontalEdge": upper,
        f"{device}LowerHorizontalEdge": lower,
        f"{device}LeftVerticalEdge": left,
        f"{device}RightVerticalEdge": right,
    }


def disc(row=60, column=50, radius=40):
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def circular(device="Shutter", row=61, column=51, radius=40):
    return {
        f"{device}Shape": "CIRCULAR",
        f"CenterOfCircular{device}": [row, column],
        f"RadiusOfCircular{device}": radius,
    }


def triangle():
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    return (columns >= 10) & (rows <= 110) & (columns - 10 <= rows - 10)


def polygonal(device="Shutter"):
    return {
        f"{device}Shape": "POLYGONAL",
        f"VerticesOfThePolygonal{device}": [11, 11, 111, 11, 111, 111],
    }


FORMS = {
    "rectangle": (rectangle(), rectangular),
    "disc": (disc(), circular),
    "triangle": (triangle(), polygonal),
}


@pytest.mark.parametrize("device", ["Shutter", "Collimator"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outside", [0, 4095, 65000])
def test_what_is_covered_is_out_of_the_range_and_black(
    make_dicom, minmax_of, device, photometric, form, outside
):
    shown, elements = FORMS[form]
    data = make_dicom(
        bordered(shown, outside), PhotometricInterpretation=photometric, **elements(device)
    )
    radiograph = load_radiograph(data)
    inside = anatomy()[shown].astype(float)
    expected = minmax_of(inside if photometric == "MONOCHROME2" else -inside).astype(int)
    assert np.abs(radiograph.pixels[shown] - expected).max() <= 1  # halves are rounded two ways
    assert np.ptp(radiograph.pixels[shown]) == 255
    assert not radiograph.pixels[~shown].any()
    assert radiograph.photometric[device.lower()] == [elements()["ShutterShape"]]
    assert radiograph.warnings == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value, gray", [(None, 0), (0, 0), (65535, 255), (32896, 128)])
def test_voi_covers_in_the_gray_of_the_file(make_dicom, form, value, gray):
    shown, elements = FORMS[form]
    window = {"WindowCenter": 1300, "WindowWidth": 600}
    stated = {} if value is None else {"ShutterPresentationValue": value}
    data = make_dicom(bordered(shown, 4095), **elements(), **window, **stated)
    radiograph = load_radiograph(data, rendering="voi")
    plain = load_radiograph(make_dicom(anatomy(), **window), rendering="voi")
    assert np.array_equal(radiograph.pixels[shown], plain.pixels[shown])
    assert (radiograph.pixels[~shown] == gray).all()


@pytest.mark.parametrize(
    "first, last",
    [(1, 0), (0, 0), (0, -1), (0, 1)],
    ids=["the standard's", "half-open from 0", "from 0", "the covered ones"],
)
def test_edges_counted_in_other_ways_leave_the_range_alone(make_dicom, first, last):
    elements = rectangular(upper=20 + first, left=30 + first, lower=100 + last, right=110 + last)
    radiograph = load_radiograph(make_dicom(bordered(rectangle(), 4095), **elements))
    low, high = radiograph.photometric["value_range"]
    assert 1120 <= low <= 1140
    assert 1500 <= high <= 1540


def test_several_forms_leave_what_all_leave(make_dicom):
    shown = rectangle() & disc()
    elements = rectangular() | circular() | {"ShutterShape": ["RECTANGULAR", "CIRCULAR"]}
    radiograph = load_radiograph(make_dicom(bordered(shown, 4095), **elements))
    assert np.array_equal(radiograph.pixels > 0, shown & (anatomy() > anatomy()[shown].min()))


def test_float_values_and_colors_too(make_dicom, minmax_of):
    shown = rectangle()
    values = bordered(shown, 60000).astype(np.uint32) * 1000
    radiograph = load_radiograph(make_dicom(values, **rectangular()))
    assert np.array_equal(radiograph.pixels[shown], minmax_of(anatomy()[shown]))
    rgb = np.repeat((bordered(shown, 2500) // 10).astype(np.uint8)[..., None], 3, axis=2)
    radiograph = load_radiograph(make_dicom(rgb, **rectangular()))
    assert np.array_equal(radiograph.pixels[shown], minmax_of(anatomy()[shown] // 10))
    assert not radiograph.pixels[~shown].any()


@pytest.mark.parametrize("device", ["Shutter", "Collimator"])
@pytest.mark.parametrize(
    "elements",
    [
        {"Shape": "RECTANGULAR"},
        rectangular("", left=0, right=0, upper=0, lower=0),
        rectangular("", left=110, right=31),
        rectangular("", upper=100, lower=20),
        rectangular("", left=500, right=900),
        rectangular("", left=-900, right=-500),
        rectangular("", left=60, right=61, upper=60, lower=61),
        {"Shape": "CIRCULAR", "CenterOfCircular": [61], "RadiusOfCircular": 40},
        circular("", radius=0),
        circular("", radius=-5),
        circular("", row=1000),
        {"Shape": "POLYGONAL", "VerticesOfThePolygonal": [1, 1, 50, 50]},
        {"Shape": "POLYGONAL", "VerticesOfThePolygonal": [1, 1, 50, 50, 50]},
        {"Shape": "POLYGONAL", "VerticesOfThePolygonal": [1, 1, 50, 50, 99, 99]},
        {"Shape": "BITMAP"},
        {"Shape": "ROUND"},
    ],
)
def test_a_bad_one_is_ignored_with_a_warning(make_dicom, minmax_of, device, elements):
    names = {
        name + device if "Of" in name else device + name: value for name, value in elements.items()
    }
    for rendering in ("minmax", "voi"):
        radiograph = load_radiograph(
            make_dicom(anatomy(), WindowCenter=1300, WindowWidth=600, **names), rendering=rendering
        )
        assert kinds(radiograph) == [device.lower()]
        if rendering == "minmax":
            assert np.array_equal(radiograph.pixels, minmax_of(anatomy()))


def test_a_good_form_beside_a_bad_one_counts(make_dicom, minmax_of):
    shown = rectangle()
    elements = rectangular() | circular(radius=-1) | {"ShutterShape": ["CIRCULAR", "RECTANGULAR"]}
    radiograph = load_radiograph(make_dicom(bordered(shown, 4095), **elements))
    assert np.array_equal(radiograph.pixels[shown], minmax_of(anatomy()[shown]))
    assert kinds(radiograph) == ["shutter"]


def test_a_shutter_around_one_gray_is_ignored(make_dicom, minmax_of):
    values = np.where(rectangle(), 1500, anatomy()).astype(np.uint16)
    radiograph = load_radiograph(make_dicom(values, **rectangular()))
    assert np.array_equal(radiograph.pixels, minmax_of(values))
    assert kinds(radiograph) == ["shutter"]


def test_a_shutter_as_large_as_the_picture_changes_nothing(make_dicom, minmax_of):
    for elements in (
        rectangular(left=1, right=SIZE, upper=1, lower=SIZE),
        rectangular(left=-50, right=900, upper=0, lower=SIZE + 1),
        circular(radius=300),
    ):
        radiograph = load_radiograph(make_dicom(anatomy(), **elements))
        assert np.array_equal(radiograph.pixels, minmax_of(anatomy()))
        assert radiograph.warnings == ()


# ---- pixels that are not square ------------------------------------------------------------


def stored_disc(height, width, rows, columns):
    """A disc of 60 mm in the middle, in pixels of ``height`` x ``width`` mm."""
    y = (np.arange(rows) - (rows - 1) / 2) * height
    x = (np.arange(columns) - (columns - 1) / 2) * width
    return (1000 + 2000 * (y[:, None] ** 2 + x**2 <= 30**2)).astype(np.uint16)


@pytest.mark.parametrize("rendering", ["minmax", "voi"])
@pytest.mark.parametrize("height, width", [(0.4, 0.8), (1.0, 0.5), (0.5, 0.55), (0.8, 0.78)])
@pytest.mark.parametrize("said", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"])
def test_a_disc_is_a_disc(make_dicom, rendering, height, width, said):
    rows, columns = round(90 / height), round(100 / width)
    stated = [round(1000 * height), round(1000 * width)] if "Ratio" in said else [height, width]
    data = make_dicom(
        stored_disc(height, width, rows, columns),
        WindowCenter=2000,
        WindowWidth=2000,
        **{said: stated},
    )
    radiograph = load_radiograph(data, rendering=rendering)
    finer = min(height, width)
    assert radiograph.pixels.shape == (round(90 / finer), round(100 / finer))
    inside = radiograph.pixels > 127
    across, down = inside.any(axis=0).sum(), inside.any(axis=1).sum()
    assert across == pytest.approx(60 / finer, abs=2)
    assert down == pytest.approx(60 / finer, abs=2)
    assert kinds(radiograph) == ["pixel_shape"]
    if "Ratio" not in said:
        assert radiograph.pixel_spacing == (finer, finer)
    assert radiograph.scale == pytest.approx((height / finer, width / finer), rel=0.01)


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelSpacing": [0.14, 0.1412]},
        {"PixelAspectRatio": [1, 1]},
        {"PixelAspectRatio": [0, 0]},
        {"PixelAspectRatio": [2]},
        {"PixelSpacing": [0.2, 0.2], "PixelAspectRatio": [2, 1]},  # calibrated pixels are square
    ],
)
def test_square_pixels_stay(make_dicom, minmax_of, elements):
    radiograph = load_radiograph(make_dicom(anatomy(), **elements))
    assert np.array_equal(radiograph.pixels, minmax_of(anatomy()))
    assert radiograph.scale == (1.0, 1.0)
    assert radiograph.warnings == ()


def test_an_impossible_shape_is_not_applied(make_dicom, minmax_of):
    radiograph = load_radiograph(make_dicom(anatomy(), PixelSpacing=[0.14, 14]))
    assert np.array_equal(radiograph.pixels, minmax_of(anatomy()))
    assert kinds(radiograph) == ["pixel_shape"]


def test_a_circular_shutter_is_round_in_the_patient(make_dicom):
    elements = circular(row=61, column=61, radius=40) | {"PixelSpacing": [0.1, 0.2]}
    radiograph = load_radiograph(make_dicom(np.maximum(anatomy(), 1001), **elements))
    assert radiograph.pixels.shape == (120, 240)
    shown = radiograph.pixels > 0
    assert shown.any(axis=0).sum() == pytest.approx(160, abs=4)  # smoothed at the edge
    assert shown.any(axis=1).sum() == 120  # 80 columns' width are 160 rows: the picture's height
    rows, columns = np.mgrid[0:120, 0:240]
    expected = (rows - 60) ** 2 + (columns - 120.5) ** 2 <= 80**2
    assert (shown != expected).mean() < 0.02


# ---- frames --------------------------------------------------------------------------------


def frames():
    return np.stack([anatomy(), anatomy()[::-1], anatomy().T])


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
def test_a_frame_is_chosen_by_its_number(make_dicom, minmax_of, syntax):
    from pydicom.uid import UID

    stack = frames()
    data = make_dicom(stack.reshape(-1, SIZE), syntax=UID(syntax), Rows=SIZE, NumberOfFrames=3)
    for number, frame in enumerate(stack, 1):
        radiograph = load_radiograph(data, frame=number)
        assert np.array_equal(radiograph.pixels, minmax_of(frame))
    for number in (0, 4):
        with pytest.raises(Exception, match=f"no frame {number}, the file holds 3") as error:
            load_radiograph(data, frame=number)
        assert error.value.kind == "multi_frame"
    with pytest.raises(Exception, match=r"holds 3 frames.*--frame N") as error:
        load_radiograph(data)


def test_compressed_frames(make_dicom, minmax_of):
    import io

    import pydicom
    from pydicom import uid as uids
    from pydicom.encaps import encapsulate

    stack = frames()
    parts = []
    for frame in stack:
        one = pydicom.dcmread(io.BytesIO(make_dicom(frame, syntax=uids.JPEG2000Lossless)))
        parts.append(pydicom.encaps.get_frame(one.PixelData, 0, number_of_frames=1))
    one.NumberOfFrames = 3
    for has_table in (True, False):
        one.PixelData = encapsulate(parts, has_bot=has_table)
        file = io.BytesIO()
        one.save_as(file)
        for number, frame in enumerate(stack, 1):
            pixels = load_radiograph(file.getvalue(), frame=number).pixels
            assert np.array_equal(pixels, minmax_of(frame))


def test_functional_groups_say_what_holds_for_a_frame(make_dicom):
    def group(center):
        window, item = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 400
        item.FrameVOILUTSequence = [window]
        return item

    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.3, 0.3]
    shared.PixelMeasuresSequence = [measures]
    data = make_dicom(
        frames().reshape(-1, SIZE),
        Rows=SIZE,
        NumberOfFrames=3,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[group(center) for center in (1200, 1300, 1400)],
    )
    for number, center in enumerate((1200, 1300, 1400), 1):
        radiograph = load_radiograph(data, rendering="voi", frame=number)
        assert radiograph.photometric["window"][:2] == [center, 400]
        assert radiograph.pixel_spacing == (0.3, 0.3)


def test_a_word_that_is_no_shape_is_not_repeated(make_dicom):
    """It may be anything: warnings reach reports and logs."""
    elements = rectangular() | {"ShutterShape": "MARKXQ"}
    radiograph = load_radiograph(make_dicom(bordered(rectangle(), 4095), **elements))
    assert kinds(radiograph) == ["shutter"]
    assert "markxq" not in " ".join(radiograph.warnings).lower()
