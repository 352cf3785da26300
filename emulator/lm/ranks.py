"""Data parallelism on one machine: forked ranks that take their part of every batch, as those of a distributed trainer.

Threads inside an operation gain nothing where operations are so small that half of the time goes into starting them. So
further cores get further processes. All compute with the same parameters, which lie in memory that they share; their
gradients come back in the same way.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import mmap
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch
from torch import Tensor, nn


class RankLost(RuntimeError):
    """A rank is gone, and with it what it was computing."""


class Ranks:
    """The ranks beside this process, which is rank 0: forked copies of it that do `work` on what they are told.

    `work` runs there with the parameters as they are at that time; the gradients that it leaves behind are rank 0's to
    collect. The ranks end with `close()`, or with this process.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], count: int, work: Callable[[Any], Any]) -> None:
        self._parameters = parameters
        if count > 1:
            for parameter in parameters:
                parameter.data = _shared(parameter.data)
        self._others: list[tuple[Connection, list[Tensor]]] = []
        for _ in range(1, count):
            self._others.append(self._fork(work))

    def __len__(self) -> int:
        """All ranks, rank 0 included."""
        return 1 + len(self._others)

    def _fork(self, work: Callable[[Any], Any]) -> tuple[Connection, list[Tensor]]:
        ours, theirs = Pipe()
        gradients = [_shared(torch.zeros_like(parameter)) for parameter in self._parameters]
        if os.fork() == 0:
            self._be_rank(theirs, gradients, work)
        theirs.close()
        return ours, gradients

    def _be_rank(self, connection: Connection, gradients: list[Tensor], work: Callable[[Any], Any]) -> NoReturn:
        """The child: never returns."""
        try:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a stop is for rank 0, which ends a step first
            _close_all_but(connection.fileno())
            while True:
                task = pickle.loads(connection.recv_bytes())
                try:
                    result = work(task)
                except Exception as error:  # raised again by rank 0
                    result = error
                for gradient, parameter in zip(gradients, self._parameters, strict=True):
                    gradient.copy_(parameter.grad) if parameter.grad is not None else gradient.zero_()
                connection.send_bytes(pickle.dumps(result))
        except (EOFError, ConnectionError):
            pass  # rank 0 is gone
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def close(self) -> None:
        """Ends the other ranks."""
        for connection, _ in self._others:
            connection.close()

    def tell(self, tasks: Sequence[Any]) -> None:
        """One task to each rank but this; `hear` gives the results. In between this rank does its own part."""
        for (connection, _), task in zip(self._others, tasks, strict=True):
            with _loss_told():
                connection.send_bytes(pickle.dumps(task))

    def hear(self) -> list[Any]:
        """The other ranks' results, in their order. Raises RankLost, or what a rank's work raised."""
        with _loss_told():
            results = [pickle.loads(connection.recv_bytes()) for connection, _ in self._others]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def add_gradients(self) -> None:
        """Adds the other ranks' gradients to those of this rank."""
        for _, gradients in self._others:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                if parameter.grad is not None:
                    parameter.grad += gradient
                elif parameter.requires_grad:  # this rank had nothing to do
                    parameter.grad = gradient.clone()


def _close_all_but(kept: int) -> None:
    """Whatever else is open here is rank 0's: whoever is at the other end waits for it to be closed."""
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2 and descriptor != kept:
            with suppress(OSError):  # that of the listing itself
                os.close(descriptor)


@contextmanager
def _loss_told() -> Generator[None]:
    try:
        yield
    except (EOFError, OSError):
        raise RankLost(
            "a process that computes its part of every step (`emulator.threads`) is gone: killed, or short of memory"
        ) from None


def _shared(tensor: Tensor) -> Tensor:
    """A copy in memory that forked processes share."""
    memory = mmap.mmap(-1, max(1, tensor.numel()) * tensor.element_size())
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape)
    return copy.copy_(tensor)
