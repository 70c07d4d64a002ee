"""What a recipe costs here, and ways to make it fit into a given memory, each measured.

A batch too large to try (for the memory, or for the user's patience) is not guessed: memory grows
by the same amount with each clip, and batches of 1 and 2 are measured. Such a figure is marked.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from stadapter.data import ClipTable, LabelSpace
from stadapter.plan.memory import bytes_text
from stadapter.plan.probe import STEPS, Measurement, ModelFacts, Probe, ProbeKilledError
from stadapter.plan.reading import Reading, measure_reading
from stadapter.progress import progress_bar
from stadapter.recipe import Recipe

SPARE = 0.8
"""Share of the free memory that a measurement may take."""
WORTH_SAVING = 0.05
"""Share of the memory that activations must take for a way of saving them to be tried."""


@dataclass(frozen=True)
class PlanConfig:
    """What a training must fit into."""

    memory_bytes: int | None = None
    """Most memory of the process, or of the GPU; None takes what is free now."""
    num_clips: int | None = None
    """Training clips of an epoch, for the hours; None if not known."""
    max_seconds: float = 60.0
    """Longest measurement; larger batches are worked out from smaller ones."""

    def __post_init__(self) -> None:
        if self.num_clips is not None and self.num_clips < 1:
            raise ValueError(f"num_clips ({self.num_clips}) must be at least 1")
        if not self.max_seconds > 0:
            raise ValueError(f"max_seconds ({self.max_seconds}) must be above 0")


@dataclass(frozen=True)
class Option:
    """One way to run the recipe."""

    name: str
    """What is done."""
    changes: str
    """What it does to the result."""
    flags: tuple[str, ...]
    """What to add to the command line."""
    batch_size: int
    """Clips at once."""
    accumulation_steps: int
    """Batches per step."""
    trained: int
    """Weights that train."""
    measurement: Measurement
    """Of one or two such batches."""
    measured: bool
    """False if worked out from batches of 1 and 2."""
    fits: bool
    """Whether it stays within the memory."""

    def hours(self, num_clips: int, epochs: int) -> float:
        """Of all training steps; without validation, and without waiting for clips."""
        return num_clips * epochs / self.measurement.clips_per_second / 3600


@dataclass(frozen=True)
class Split:
    """Where the memory of a small batch goes, for one kind of model."""

    name: str
    """What is done."""
    trained: int
    """Weights that train."""
    measurement: Measurement
    """Of one batch of 1 or 2 clips."""


@dataclass(frozen=True)
class Plan:
    """What a recipe costs on this machine."""

    recipe: Recipe
    """As it was given."""
    num_classes: int
    """K, width of the logits."""
    num_clips: int | None
    """Training clips of an epoch."""
    facts: ModelFacts
    """Of the recipe's model."""
    memory_bytes: int
    """What it must fit into."""
    options: tuple[Option, ...]
    """The recipe itself first."""
    splits: tuple[Split, ...]
    """The recipe itself first."""
    load: float
    """Processes that wanted a core before the measurements, per core; above 1 they share."""
    reading: Reading | None
    """What reading clips costs, where there are some."""

    @property
    def fits(self) -> bool:
        """Whether any option does."""
        return any(option.fits for option in self.options)


@dataclass(frozen=True)
class _Way:
    name: str
    changes: str
    flags: tuple[str, ...]
    recipe: Recipe


def make_plan(
    recipe: Recipe,
    space: LabelSpace,
    config: PlanConfig | None = None,
    *,
    table: ClipTable | None = None,
) -> Plan:
    """Measure a recipe and ways to make it smaller, each in a process of its own.

    Args:
        recipe: as for training; no pretrained weights are needed.
        space: what a label is.
        config: what to fit into.
        table: training clips, some of which are read; None reads none.

    Raises:
        ValueError: settings that cannot be used, or less memory than the weights take.
        ProbeKilledError: not even one clip could be computed.
    """
    config = config or PlanConfig()
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    own = _Way("as the recipe says", "", (), recipe)
    options: list[Option] = []
    splits: list[Split] = []
    with progress_bar("measuring", 5) as bar:
        with Probe(recipe, space) as probe:
            facts = probe.facts
            limit = config.memory_bytes or facts.free_bytes
            _check_limit(limit, facts)
            trial = _Trial(probe, own, limit, config.max_seconds)
            options.append(trial.option(recipe.train.batch_size))
            if not options[0].fits:
                smaller = "smaller batches, more of them per step"
                trial.way = replace(own, name=smaller, changes="the same steps")
                options.append(trial.largest_option())
            splits.append(Split(own.name, facts.trained, trial.small))
        bar.advance()
        small = splits[0].measurement
        worth = small.saved_bytes > WORTH_SAVING * (small.peak_bytes - facts.process_bytes)
        for way in _ways(recipe, facts.depth) if worth else ():
            try:
                with Probe(way.recipe, space) as probe:
                    trial = _Trial(probe, way, limit, config.max_seconds)
                    options.append(trial.largest_option())
                    splits.append(Split(way.name, probe.facts.trained, trial.small))
            except ProbeKilledError:  # one proposal less
                continue
            finally:
                bar.advance()
    reading = None
    if table is not None:
        reading = measure_reading(table, recipe, facts.preprocessing)
    return Plan(
        recipe=recipe,
        num_classes=space.num_outputs,
        num_clips=len(table) if table is not None else config.num_clips,
        facts=facts,
        memory_bytes=limit,
        options=tuple(options),
        splits=tuple(splits),
        load=load,
        reading=reading,
    )


def _check_limit(limit: int, facts: ModelFacts) -> None:
    least = facts.process_bytes + facts.weight_bytes
    if limit < least:
        raise ValueError(
            f"memory of {bytes_text(limit)} is less than the weights "
            f"({bytes_text(facts.weight_bytes)}) and the process without them "
            f"({bytes_text(facts.process_bytes)}) take; give more, or choose a smaller backbone"
        )


def _ways(recipe: Recipe, depth: int) -> Iterator[_Way]:
    """Settings that need less memory than the recipe's own."""
    before = recipe.train.checkpoint_every
    if before != 1 and recipe.train.recompute != "mlp":
        yield _Way(
            "recompute each MLP",
            "the same result; most of each MLP is computed twice",
            ("--train.recompute", "mlp"),
            replace(recipe, train=replace(recipe.train, recompute="mlp")),
        )
    for every in (2, 1):
        if before == 0 or every < before:
            blocks = "all blocks" if every == 1 else "every 2nd block"
            yield _Way(
                f"checkpoint {blocks}",
                "the same result; these blocks are computed twice",
                ("--train.checkpoint_every", str(every)),
                replace(recipe, train=replace(recipe.train, checkpoint_every=every)),
            )
    method = recipe.method
    if "last_blocks" not in {field.name for field in fields(method)}:
        return
    blocks_now = getattr(method, "last_blocks", None) or depth
    for last in dict.fromkeys(blocks_now // part for part in (2, 4)):
        if last >= 1:
            yield _Way(
                f"adapt the last {last} of {depth} blocks",
                "another model, whose score must be measured",
                ("--method.last_blocks", str(last)),
                replace(recipe, method=replace(method, **{"last_blocks": last})),
            )


class _Trial:
    """Measurements of one way, and what follows for larger batches."""

    def __init__(self, probe: Probe, way: _Way, limit: int, max_seconds: float) -> None:
        self.probe = probe
        self.way = way
        self.limit = limit
        self.max_seconds = max_seconds
        self.one = probe.measure(1)
        self.small = probe.measure(2)

    def largest_option(self) -> Option:
        """With the largest batch that fits, and as many of them as make the recipe's step; a
        batch of one if none does."""
        train = self.way.recipe.train
        clips = train.batch_size * train.accumulation_steps
        for batch_size in range(train.batch_size, 0, -1):
            if clips % batch_size == 0 and self._expected(batch_size).peak_bytes <= self.limit:
                option = self.option(batch_size)
                if option.fits:
                    return option
        return self.option(1)

    def option(self, batch_size: int) -> Option:
        """With this batch, measured if it can be."""
        train = self.way.recipe.train
        accumulation = train.batch_size * train.accumulation_steps // batch_size
        expected = self._expected(batch_size)
        room = expected.peak_bytes <= SPARE * self.probe.facts.free_bytes
        seconds = expected.seconds * (STEPS + 1)
        measured = room and seconds <= self.max_seconds
        measurement = expected
        if measured:
            measurement = self.probe.measure(batch_size, min(accumulation, 2))
        flags = list(self.way.flags)
        if batch_size != train.batch_size:
            flags += ["--train.batch_size", str(batch_size)]
            flags += ["--train.accumulation_steps", str(accumulation)]
        return Option(
            name=self.way.name,
            changes=self.way.changes,
            flags=tuple(flags),
            batch_size=batch_size,
            accumulation_steps=accumulation,
            trained=self.probe.facts.trained,
            measurement=measurement,
            measured=measured,
            fits=measurement.peak_bytes <= self.limit,
        )

    def _expected(self, batch_size: int) -> Measurement:
        """Worked out from batches of 1 and 2: each further clip takes as much as the second."""
        one, two = self.one, self.small
        train = self.way.recipe.train
        batches = min(2, train.batch_size * train.accumulation_steps // batch_size)
        saved = two.saved_bytes - one.saved_bytes
        clip = max(two.peak_bytes - one.peak_bytes, saved)
        # Gradients of the batches before are there during the forward pass of the next.
        held = two.gradient_bytes if batches > 1 else 0
        return Measurement(
            batch_size=batch_size,
            accumulation_steps=batches,
            peak_bytes=one.peak_bytes + clip * (batch_size - 1) + held,
            seconds=two.seconds / 2 * batch_size * batches,
            saved_bytes=one.saved_bytes + saved * (batch_size - 1),
            gradient_bytes=two.gradient_bytes,
        )
