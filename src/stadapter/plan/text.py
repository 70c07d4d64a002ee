"""A plan for people, and as JSON."""

from dataclasses import asdict
from typing import Any

from stadapter.plan.memory import bytes_text
from stadapter.plan.plan import Option, Plan, Split
from stadapter.plan.probe import Measurement
from stadapter.tables import table_text


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON; bytes, seconds and hours as numbers."""
    content = asdict(plan)
    content["recipe"] = plan.recipe.to_dict()
    content["fits"] = plan.fits
    for entry, option in zip(content["options"], plan.options, strict=True):
        entry["clips_per_second"] = option.measurement.clips_per_second
        entry["hours"] = _hours(option, plan)
    return content


def plan_text(plan: Plan) -> str:
    """The plan for people: the model, the options, where the memory goes, and what is slow."""
    facts, recipe = plan.facts, plan.recipe
    H, W = facts.preprocessing.resolution
    lines = [
        f"{recipe.method.name} on {recipe.backbone}, {recipe.sampling.num_frames} frames of "
        f"{H} x {W}, {plan.num_classes} classes, {recipe.train.precision}",
        f"{facts.parameters:,} parameters, {facts.trained:,} trained "
        f"({facts.trained / facts.parameters:.1%}); {facts.macs / 1e9:.1f} GMACs per clip",
        f"on {facts.device}, to fit into {bytes_text(plan.memory_bytes)}",
        "",
        table_text([_option_row(option, plan) for option in plan.options]).rstrip("\n"),
        "",
    ]
    if not all(option.measured for option in plan.options):
        lines += ["* worked out from measured batches of 1 and 2: too large or too slow to try", ""]
    if plan.load > 1:
        busy = f"The machine is busy (load {plan.load:.1f} per core): alone, times are shorter."
        lines += [busy, ""]
    lines += _advice(plan)
    lines += ["", *_memory_lines(plan)]
    if plan.reading is not None:
        lines += ["", *_reading_lines(plan)]
    return "\n".join(lines) + "\n"


def _option_row(option: Option, plan: Plan) -> dict[str, Any]:
    first, own = plan.options[0].measurement, option.measurement
    hours = _hours(option, plan)
    ratio = first.clips_per_second / own.clips_per_second - 1
    row = {
        "": option.name,
        "batch": f"{option.batch_size} x {option.accumulation_steps}",
        "peak": bytes_text(own.peak_bytes) + ("" if option.measured else " *"),
        "fits": "yes" if option.fits else "no",
        "clips/s": f"{own.clips_per_second:.3g}",
        "time": "" if option is plan.options[0] else f"{ratio:+.0%}",
    }
    if hours is not None:
        row["hours"] = f"{hours:.3g}"
    return {**row, "trained": f"{option.trained:,}", "result": option.changes}


def _advice(plan: Plan) -> list[str]:
    limit = bytes_text(plan.memory_bytes)
    if not plan.fits:
        least = min(plan.options, key=lambda option: option.measurement.peak_bytes)
        return [
            f"Nothing that was tried fits into {limit}; the least is "
            f"{bytes_text(least.measurement.peak_bytes)} ({least.name}, batch {least.batch_size}). "
            "A smaller backbone, resolution or number of frames takes less."
        ]
    fitting = [option for option in plan.options if option.fits and option.flags]
    width = max((len(option.name) for option in fitting), default=0)
    flags = [f"  {option.name:{width}}  {' '.join(option.flags)}" for option in fitting]
    if plan.options[0].fits:
        return ["The recipe fits as it is.", *(["For less memory:", *flags] if flags else [])]
    return [f"The recipe does not fit into {limit}. What does:", *flags]


def _memory_lines(plan: Plan) -> list[str]:
    """Where the memory of a small batch goes, and why freezing does not shrink it."""
    facts = plan.facts
    clips = plan.splits[0].measurement.batch_size
    lines = [
        f"Where the memory goes, at {clips} clips:",
        table_text([_split_row(split, plan) for split in plan.splits]).rstrip("\n"),
    ]
    saved = plan.splits[0].measurement.saved_bytes
    frozen = facts.parameters - facts.trained
    if not frozen:
        return lines
    spared = bytes_text(frozen * 3 * 4)
    text = (
        f"Freezing {frozen:,} weights spares their gradients and optimiser state ({spared} in "
        "fp32), and nothing else."
    )
    if saved / clips > facts.weight_bytes / 100:
        text += (
            f" What a clip adds is what the forward pass keeps for the backward pass, "
            f"{bytes_text(saved / clips)} per clip here: the gradient passes through every frozen "
            "block above the first trained one. Fewer clips at once, fewer frames, checkpointing, "
            "or adapting only the last blocks make it smaller."
        )
    else:
        text += " The backbone below keeps nothing for a backward pass, since nothing in it trains."
    return [*lines, text]


def _split_row(split: Split, plan: Plan) -> dict[str, str]:
    own = split.measurement
    return {
        "": split.name,
        "Python, libraries": bytes_text(plan.facts.process_bytes),
        "weights": bytes_text(plan.facts.weight_bytes),
        "gradients, optimiser": bytes_text(own.gradient_bytes),
        "kept for backward": bytes_text(own.saved_bytes),
        "passing": bytes_text(_passing(own, plan)),
        "peak": bytes_text(own.peak_bytes),
    }


def _passing(own: Measurement, plan: Plan) -> int:
    """The rest of the peak: tensors that live for a moment, and what the allocator holds."""
    known = plan.facts.process_bytes + plan.facts.weight_bytes
    return max(0, own.peak_bytes - known - own.gradient_bytes - own.saved_bytes)


def _reading_lines(plan: Plan) -> list[str]:
    reading = plan.reading
    assert reading is not None
    best = next((o for o in plan.options if o.fits), plan.options[0])
    model = best.measurement.clips_per_second
    lines = [
        f"Reading: {reading.clips_per_second:.3g} clips/s per core, {reading.num_clips} clips "
        f"measured ({reading.num_broken} could not be read); {reading.num_processes} processes: "
        f"{reading.total:.3g} clips/s"
    ]
    slower = "reading" if reading.total < model else "the model"
    text = f"The bottleneck is {slower} (the model: {model:.3g} clips/s, {best.name})."
    if slower == "reading":
        text += " Make the files faster to read with stadapter prepare, or give more --num_workers."
    if plan.facts.device.startswith("cpu"):
        text += " Both share the cores here, so the hours above are too few by what reading takes."
    return [*lines, text]


def _hours(option: Option, plan: Plan) -> float | None:
    if plan.num_clips is None:
        return None
    return option.hours(plan.num_clips, plan.recipe.train.epochs)
