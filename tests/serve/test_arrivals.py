"""A study is complete when none of its files has changed for the quiet time."""

import os

from helpers.report_documents import write_image

from llava_rad.serve.arrivals import Arrivals


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def looked(arrivals):
    return [(len(one.group.files), one.complete) for one in arrivals.look()]


def test_a_study_waits_for_its_quiet_time_and_a_late_view_starts_it_anew(tmp_path):
    clock = Clock()
    arrivals = Arrivals(tmp_path, 10, clock)
    assert looked(arrivals) == []
    write_image(tmp_path, 1)
    assert looked(arrivals) == [(1, False)]
    clock.now += 9
    write_image(tmp_path / "sub", 1, name="lat", view="LL")
    assert looked(arrivals) == [(2, False)]
    clock.now += 9
    assert looked(arrivals) == [(2, False)]
    write_image(tmp_path, 2)
    clock.now += 1
    assert looked(arrivals) == [(2, True), (1, False)]


def test_a_file_that_is_being_written_is_waited_for(tmp_path):
    clock = Clock()
    arrivals = Arrivals(tmp_path, 10, clock)
    content = write_image(tmp_path, 1).read_bytes()
    path = tmp_path / "1_pa.dcm"
    for part in (300, 2000, 5000):
        path.write_bytes(content[:part])
        clock.now += 9
        assert not any(one.complete for one in arrivals.look())
    path.write_bytes(content)
    clock.now += 9
    arrivals.look()
    clock.now += 10
    [done] = arrivals.look()
    assert done.complete and done.group.study_uid


def test_a_change_that_keeps_the_size_counts_and_old_times_of_copies_do_not(tmp_path):
    clock = Clock()
    arrivals = Arrivals(tmp_path, 10, clock)
    path = write_image(tmp_path, 1)
    os.utime(path, (0, 0))  # as a copy that keeps times
    assert looked(arrivals) == [(1, False)]
    clock.now += 10
    assert looked(arrivals) == [(1, True)]
    os.utime(path, (5, 5))
    assert looked(arrivals) == [(1, False)]


def test_results_and_hidden_files_are_no_studies(tmp_path):
    (tmp_path / ".llava-rad").mkdir()
    write_image(tmp_path / ".llava-rad", 1)
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    assert Arrivals(tmp_path, 1).look() == []
