from PIL import Image

from llava_rad.appearance.figures import styled
from llava_rad.runs.curves import Mark, Pace, Panel, draw_panels, panels_figure

MARKS = (Mark(2, "the learning rate is at its peak"), Mark(9, "crops of 112 px from here"))


def panel(**changes):
    settings = {
        "title": "Losses",
        "xlabel": "epoch",
        "ylabel": "cross-entropy, nats",
        "left": {"total": [(0, 3.0), (4, 2.0)], "absent": []},
        **changes,
    }
    return Panel(**settings)


def drawn(*panels):
    with styled():
        figure = panels_figure(panels, "Pretraining")
        figure.draw_without_rendering()
    return figure


def test_axes_are_labelled_and_the_legend_names_the_lines_that_are_there():
    figure = drawn(panel(right={"spread": [(1, 0.5)]}, right_label="KoLeo, nats"))
    left, right = figure.axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("epoch", "cross-entropy, nats")
    assert right.get_ylabel() == "KoLeo, nats" and left.get_title(loc="left") == "Losses"
    assert [text.get_text() for text in left.get_legend().texts] == ["total", "spread"]
    (broken,) = right.get_lines()
    assert broken.get_linestyle() == "--" and broken.get_color() != left.get_lines()[0].get_color()


def test_changes_in_a_run_are_numbered_and_explained_once_they_have_come():
    figure = drawn(panel(marks=MARKS), panel(marks=MARKS))
    assert figure.get_supxlabel() == "1: the learning rate is at its peak"
    for axis in figure.axes:
        assert [text.get_text() for text in axis.texts] == ["1"]
        assert [list(line.get_xdata()) for line in axis.get_lines()[1:]] == [[2, 2]]


def test_four_panels_leave_no_gap_and_nothing_overlaps():
    figure = drawn(*[panel()] * 4)
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert len(boxes) == 4
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_panels_without_a_point_are_left_out(tmp_path):
    draw_panels(tmp_path / "none.png", [panel(left={"total": []})], "Pretraining")
    assert not (tmp_path / "none.png").exists()
    widths = []
    for name, extra in (("one", []), ("same", [panel(left={})]), ("two", [panel()])):
        draw_panels(tmp_path / f"{name}.png", [panel(), *extra], "Pretraining")
        widths.append(Image.open(tmp_path / f"{name}.png").width)
    assert widths[0] == widths[1] < widths[2]
    assert Image.open(tmp_path / "one.png").info["Title"] == "Pretraining"


def test_a_picture_is_due_when_some_time_has_passed_since_the_last(monkeypatch):
    times = iter([100.0, 100.0, 129.9, 130.0, 130.1, 159.9, 200.0, 229.9, 230.0])
    monkeypatch.setattr("llava_rad.runs.curves.time.monotonic", lambda: next(times))
    pace = Pace(30)
    assert [pace.due() for _ in range(8)] == [*[False] * 2, True, *[False] * 2, True, False, True]
