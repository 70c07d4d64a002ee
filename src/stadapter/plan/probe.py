"""Real training steps on made-up clips, in a process of their own, whose memory is thus theirs.

A fresh process per model: what an earlier one left behind in the allocator would count for a later
one. The steps are those of `Updater`: forward, backward, clipping, optimiser. The clips are noise
of the right shape, and the weights random, since neither changes what a step costs.
"""

import multiprocessing.context
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stadapter.data import Batch, ClipTable, LabelSpace, Preprocessing
from stadapter.device import device_name, pick_device
from stadapter.plan.memory import MemoryGauge, free_memory, saved_bytes, tensor_bytes
from stadapter.ranks import Ranks
from stadapter.recipe import Recipe, build_model
from stadapter.train import Updater, mirror

STEPS = 2
"""Steps that are measured, after one that is not."""
ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)
"""What a training may raise, and a probe hands on."""


@dataclass(frozen=True)
class ModelFacts:
    """What does not depend on the batch."""

    parameters: int
    """Weights of the backbone and what the method adds."""
    trained: int
    """Those that training changes."""
    macs: int
    """Multiply-accumulate operations of one clip's forward pass."""
    preprocessing: Preprocessing
    """Resolution and pixel statistics of the input."""
    depth: int
    """Blocks of the backbone."""
    process_bytes: int
    """Memory without the model: Python and libraries; on a GPU 0."""
    weight_bytes: int
    """Of all parameters and buffers."""
    device: str
    """Its name."""
    free_bytes: int
    """Memory that was to be had on it, the process included."""


@dataclass(frozen=True)
class Measurement:
    """What one step of a batch takes."""

    batch_size: int
    """Clips that are computed at once."""
    accumulation_steps: int
    """Batches of the measured step, 1 or 2; more take no more memory, and time in proportion."""
    peak_bytes: int
    """Most memory in use during the steps, everything included."""
    seconds: float
    """Time of a step: of two, the one that other work on the machine disturbed less."""
    saved_bytes: int
    """Kept by the forward pass of a batch for its backward pass."""
    gradient_bytes: int
    """Gradients and the optimiser's state."""

    @property
    def clips_per_second(self) -> float:
        """Clips trained on in a second."""
        return self.batch_size * self.accumulation_steps / self.seconds


class ProbeKilledError(RuntimeError):
    """The system ended the process that measured, as it does when memory runs out."""


class Probe:
    """A process with a recipe's model; a context manager."""

    def __init__(self, recipe: Recipe, space: LabelSpace) -> None:
        self._arguments = (_measured(recipe), space, torch.get_num_threads())
        self._connection: Connection
        self._process: BaseProcess
        self._largest = 0
        self.facts = self._start()
        """Of the model."""

    def __enter__(self) -> "Probe":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def measure(self, batch_size: int, accumulation_steps: int = 1) -> Measurement:
        """Train for three steps of that batch, of which two count.

        Raises:
            ProbeKilledError: memory ran out.
            ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError: what
                training with this recipe raises.
        """
        if batch_size < self._largest:  # the allocator still holds what a larger batch took
            self._stop()
            self._start()
        self._largest = batch_size
        self._connection.send((batch_size, accumulation_steps))
        answer: Measurement = self._answer()
        return answer

    def _start(self) -> ModelFacts:
        context = _context()
        self._largest = 0
        self._connection, other = context.Pipe()
        arguments = (other, *self._arguments)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        facts: ModelFacts = self._answer()
        return facts

    def _stop(self) -> None:
        self._connection.close()
        self._process.join(5)
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise ProbeKilledError(
                f"the measuring process was ended by the system (exit code "
                f"{self._process.exitcode}), probably for want of memory"
            ) from None
        if isinstance(answer, torch.cuda.OutOfMemoryError):
            raise ProbeKilledError("the GPU's memory ran out") from answer
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _context() -> multiprocessing.context.SpawnContext | multiprocessing.context.ForkServerContext:
    """How processes start: from one that has imported everything and computed nothing yet, where
    the system has that, so that each further model takes no seconds to begin."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _measured(recipe: Recipe) -> Recipe:
    """The recipe as a probe trains it: alone, without files, and without pretrained weights where
    its backbone can be made without them."""
    train = replace(recipe.train, trackers=(), shard=False, num_workers=0)
    if recipe.backbone == "openai_clip":
        return replace(recipe, train=train)
    return replace(recipe, train=train, pretrained=False, backbone_weights=None)


def _serve(connection: Connection, recipe: Recipe, space: LabelSpace, threads: int) -> None:
    """What the process does: answer with the facts, then a measurement per question."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    torch.set_num_threads(threads)
    try:
        steps = _Steps(recipe, space)
        connection.send(steps.facts)
        while True:
            try:
                question = connection.recv()
            except EOFError:
                return
            connection.send(steps.measure(*question))
    except ERRORS as error:
        connection.send(error)


class _Steps:
    """The training that is measured."""

    def __init__(self, recipe: Recipe, space: LabelSpace) -> None:
        device = pick_device(recipe.train.device)
        self.gauge = MemoryGauge(device)
        free = free_memory(device) + self.gauge.now()
        self.recipe = recipe
        model, preprocessing = build_model(recipe, space)
        macs = model.count_macs(recipe.sampling.num_frames, preprocessing.resolution)
        self.table = _made_up_table(space)
        self.updater = Updater(
            model,
            self.table,
            config=recipe.train,
            blank=(1, recipe.sampling.num_frames, 3, *preprocessing.resolution),
            preprocessing=preprocessing,
            mirror=mirror(recipe.augment, space),
            ranks=Ranks(0, 1, device),
        )
        total, trained = model.num_parameters()
        weights = tensor_bytes([*model.parameters(), *model.buffers()])
        self.facts = ModelFacts(
            parameters=total,
            trained=trained,
            macs=macs,
            preprocessing=preprocessing,
            depth=len(model.backbone.blocks),
            process_bytes=max(0, self.gauge.now() - weights),
            weight_bytes=weights,
            device=device_name(device),
            free_bytes=free,
        )

    def measure(self, batch_size: int, accumulation_steps: int) -> Measurement:
        updater, model = self.updater, self.updater.model
        batches = [self._batch(batch_size)] * accumulation_steps
        num_clips = batch_size * accumulation_steps
        model.train()
        video = torch.zeros(
            batch_size,
            self.recipe.sampling.num_frames,
            3,
            *self.facts.preprocessing.resolution,
            device=self.gauge.device,
        )
        updater.optimizer.zero_grad()
        saved = saved_bytes(model, video, self.recipe.train.precision)
        del video
        updater.update(batches, num_clips, step=0, epoch=0, lr_factor=0.0)
        self.gauge.reset()
        seconds = []
        for step in range(1, STEPS + 1):
            begin = time.perf_counter()
            updater.update(batches, num_clips, step=step, epoch=0, lr_factor=0.0)
            if self.gauge.device.type == "cuda":
                torch.cuda.synchronize(self.gauge.device)
            seconds.append(time.perf_counter() - begin)
        parameters = [p for _, p in model.trained_parameters()]
        states = [t for s in updater.optimizer.state.values() for t in s.values()]
        gradients = [p.grad for p in parameters if p.grad is not None]
        average = updater.average.tensors.values() if updater.average else ()
        return Measurement(
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
            peak_bytes=self.gauge.peak(),
            seconds=min(seconds),
            saved_bytes=saved,
            gradient_bytes=tensor_bytes([*gradients, *states, *average]),
        )

    def _batch(self, batch_size: int) -> Batch:
        H, W = self.facts.preprocessing.resolution
        clips = torch.arange(batch_size) % len(self.table)
        shape = (batch_size, 1, self.recipe.sampling.num_frames, 3, H, W)
        return Batch(
            clips=clips,
            video=torch.randint(0, 256, shape, dtype=torch.uint8),
            labels=torch.as_tensor(self.table.labels)[clips],
            broken=(),
            seconds=torch.full((batch_size,), torch.nan, dtype=torch.float64),
        )


def _made_up_table(space: LabelSpace) -> ClipTable:
    """A clip of each class."""
    n = max(len(names) for names in space.vocabularies)
    columns = [np.arange(n) % len(names) for names in space.vocabularies]
    labels: NDArray[Any] = columns[0]
    if space.task == "multi_label":
        labels = np.eye(n, dtype=bool)
    elif space.task == "verb_noun":
        labels = np.stack(columns, axis=1)
    return ClipTable([f"/made-up/{i}.mp4" for i in range(n)], labels, space)
