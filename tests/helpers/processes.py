"""A function in several processes with a process group (gloo), in place of a whole program."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_FORK = multiprocessing.get_context("fork")


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What the function gives in each of ``count`` processes that know of each other.

    They are forks of this one: what they compute takes part in no gradient.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ends = []
    for rank in range(count):
        here, there = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_run, args=(rank, count, port, there, function, arguments))
        process.start()
        there.close()
        ends.append((process, here))
    answers = []
    try:
        for _, here in ends:
            assert here.poll(120), "a process gives no answer"
            answers.append(pickle.loads(here.recv_bytes()))
    finally:
        for process, _ in ends:
            if len(answers) < count:
                process.kill()
            process.join(60)
    assert all(done for done, _ in answers), "\n".join(str(a) for done, a in answers if not done)
    return [answer for _, answer in answers]


def _run(rank: int, count: int, port: str, answer: Any, function: Any, arguments: Any) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    try:
        dist.init_process_group("gloo", rank=rank, world_size=count)
        answer.send_bytes(pickle.dumps((True, function(*arguments))))
        dist.barrier()
    except BaseException:
        answer.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        answer.close()
        os._exit(0)
