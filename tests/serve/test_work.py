"""The queue before the models: what is decoded together, who waits, who is let go."""

import asyncio
import threading
from dataclasses import replace

import pytest
from helpers.tiny_models import picture

from llava_rad.data import Study, StudyImage
from llava_rad.model import ReportRequest, RequestImage
from llava_rad.reports import GenerationSettings, Report, StudyRequest, report_studies
from llava_rad.serve import work as work_module
from llava_rad.serve.request_errors import RequestError
from llava_rad.serve.work import Task, Work

SHORT = GenerationSettings(max_new_tokens=6)


def study(number):
    image = StudyImage(f"file {number}", "frontal")
    return Study(f"s{number}", f"p{number}", images=(image,))


def request(number):
    shown = RequestImage("current_frontal", picture(number))
    return StudyRequest(ReportRequest((shown,)), study(number).images, ())


def together(model, wanted, *, settings=None, before=lambda tasks: None, **options):
    """Results and batch sizes of requests that all wait when the thread becomes free.

    Args:
        wanted: for each request its number and what follows its tokens.
        settings: of each request.
        before: is given the requests' tasks while they wait.
    """
    sizes = []
    made = Work(places=32, batch_done=lambda size, seconds: sizes.append(size), **options)
    free = threading.Event()

    async def ask(number, follow, chosen):
        with made.place() as place:
            return await place.report(model, study(number), request(number), chosen, follow)

    async def run():
        with made.place() as place:
            made.submit(Task(free.wait), place)
            chosen = settings or [SHORT] * len(wanted)
            tasks = [
                asyncio.create_task(ask(number, follow, one))
                for (number, follow), one in zip(wanted, chosen, strict=True)
            ]
            await asyncio.sleep(0)
            before(tasks)
            await asyncio.sleep(0)
            free.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        with made.place() as place:
            await place.run(lambda: None)  # when what came before is over
        return results

    results = asyncio.run(run())
    made.close()
    return results, sizes


def alone(model, number, settings=SHORT):
    [result] = report_studies(model, [study(number)], settings, read=lambda m, s: request(number))
    return result.findings


def test_what_waits_is_decoded_together_and_reads_as_alone(model):
    results, sizes = together(model, [(n, None) for n in range(5)], batch_size=3)
    assert sizes == [3, 2]
    assert [r.findings for r in results] == [alone(model, n) for n in range(5)]
    assert [r.images for r in results] == [(f"file {n}",) for n in range(5)]


def test_other_settings_are_decoded_apart_and_nobody_is_passed_over(model):
    other = GenerationSettings(max_new_tokens=3)
    results, sizes = together(
        model, [(n, None) for n in range(4)], settings=[SHORT, other, SHORT, other], batch_size=8
    )
    assert sizes == [2, 2]
    assert [r.tokens for r in results] == [6, 3, 6, 3]


@pytest.mark.parametrize(("comes", "expected"), [(True, [2]), (False, [1])])
def test_a_batch_waits_for_what_is_being_read_and_not_for_what_is_given_up(
    model, monkeypatch, comes, expected
):
    monkeypatch.setattr(work_module, "_GATHER", 600)
    sizes = []
    made = Work(batch_size=8, places=8, batch_done=lambda size, seconds: sizes.append(size))

    async def run():
        with made.place() as first:
            with made.place() as second:
                one = asyncio.create_task(first.report(model, study(0), request(0), SHORT))
                await asyncio.sleep(0)
                if comes:
                    await second.report(model, study(1), request(1), SHORT)
            await one

    asyncio.run(run())
    made.close()
    assert sizes == expected


def test_a_request_that_is_cancelled_while_it_waits_is_not_decoded(model):
    results, sizes = together(
        model, [(0, None), (1, None)], before=lambda tasks: tasks[0].cancel(), batch_size=8
    )
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], Report) and sizes == [1]


def test_a_row_that_nobody_wants_any_more_stops_and_the_others_go_on(model):
    followed = {0: [], 1: []}
    loops = []

    def before(tasks):
        loops.append((asyncio.get_running_loop(), tasks[0]))

    def hang_up(ids):
        followed[0].append(len(ids))
        if len(ids) == 2:
            loop, task = loops[0]
            asyncio.run_coroutine_threadsafe(cancelled(task), loop).result()

    async def cancelled(task):
        task.cancel()
        await asyncio.wait([task])

    # Rows that end are padded: the length of what is followed says when the batch ended.
    results, sizes = together(model, [(0, hang_up)], before=before, batch_size=8)
    assert isinstance(results[0], asyncio.CancelledError) and sizes == [1]
    assert followed[0] == [1, 2], "generation went on for nobody"
    followed[0].clear()
    loops.clear()
    wanted = [(0, hang_up), (1, lambda ids: followed[1].append(len(ids)))]
    results, sizes = together(model, wanted, before=before, batch_size=8)
    assert sizes == [2] and results[1].findings == alone(model, 1)
    assert followed[1] == [1, 2, 3, 4, 5, 6]


def test_what_goes_wrong_with_a_batch_is_tried_one_by_one(model, monkeypatch):
    def fails_together(model, studies, *arguments, **options):
        if len(studies) > 1 or studies[0].study_id == "s2":
            raise RuntimeError("out of memory")
        return report_studies(model, studies, *arguments, **options)

    monkeypatch.setattr(work_module, "report_studies", fails_together)
    results, _ = together(model, [(n, None) for n in range(3)], batch_size=8)
    assert [getattr(r, "findings", None) for r in results[:2]] == [alone(model, n) for n in (0, 1)]
    assert isinstance(results[2], RuntimeError)


def test_places_are_bounded_and_given_back():
    made = Work(batch_size=2, places=2)
    with made.place(), made.place():
        with pytest.raises(RequestError) as full, made.place():
            pass
        assert full.value.status == 429 and full.value.retry_after >= 1
    with made.place():
        assert made.in_hand == 1
    assert made.in_hand == 0


def test_when_it_closes_nothing_new_is_taken_and_what_is_in_hand_is_done(model):
    made = Work(batch_size=2, places=4)

    async def run():
        with made.place() as place:
            made.close()
            with pytest.raises(RequestError) as refused, made.place():
                pass
            assert refused.value.status == 503
            return await place.report(model, study(0), request(0), SHORT)

    assert asyncio.run(run()).findings == alone(model, 0)


def test_draws_of_a_study_do_not_depend_on_who_is_decoded_with_it(model):
    drawn = replace(SHORT, temperature=1.0, seed=3)
    results, sizes = together(
        model, [(n, None) for n in range(3)], settings=[drawn] * 3, batch_size=8
    )
    assert sizes == [3]
    assert [r.findings for r in results] == [alone(model, n, drawn) for n in range(3)]


def test_the_end_waits_for_the_step_that_the_models_thread_is_at():
    before = set(threading.enumerate())
    made, begun, free = Work(batch_size=1, places=1), threading.Event(), threading.Event()

    def step():
        begun.set()
        free.wait()

    with made.place() as place:
        made.submit(Task(step), place)
        assert begun.wait(60)
    made.close()  # its client has gone: nothing is in hand
    assert set(threading.enumerate()) > before
    threading.Timer(0.2, free.set).start()
    made.join(60)
    assert not any(t.name == "models" for t in set(threading.enumerate()) - before)
