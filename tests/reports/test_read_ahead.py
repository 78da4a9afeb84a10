"""Items keep their order, and errors their turn."""

import threading

import pytest

from llava_rad.reports.read_ahead import read_ahead


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_order_is_kept(workers):
    found = list(read_ahead(range(50), lambda n: n * n, workers=workers, ahead=7))
    assert found == [(n, n * n) for n in range(50)]
    assert list(read_ahead([], str, workers=workers, ahead=1)) == []


def test_reading_goes_on_while_the_caller_works():
    read = [threading.Event() for _ in range(3)]
    results = read_ahead(range(3), lambda n: read[n].set(), workers=1, ahead=2)
    next(results)
    assert read[1].wait(10)
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_turn(workers):
    def read(number):
        if number == 3:
            raise ValueError("three")
        return number

    results = read_ahead(range(9), read, workers=workers, ahead=4)
    assert [number for number, _ in (next(results) for _ in range(3))] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_items_comes_after_those_before_it(workers):
    def items():
        yield from range(3)
        raise OSError("no more")

    found = []
    with pytest.raises(OSError, match="no more"):
        found += (n for n, _ in read_ahead(items(), str, workers=workers, ahead=8))
    results = read_ahead(items(), str, workers=workers, ahead=8)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
