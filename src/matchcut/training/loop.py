"""The training loop, one for all that is trained here."""

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from matchcut.disk import is_inside
from matchcut.errors import DatasetError, OutputError
from matchcut.manifest import check_run, noted_in, run_folder
from matchcut.tracking.device import pick_precision
from matchcut.training.checkpoint import WEIGHTS, TrainingState, about_run, checkpoints, load_weights, read_latest
from matchcut.training.config import TrainConfig
from matchcut.training.distributed import EPOCH, MAKE, STEP, launched, seed_all, share_buffers, union_of_all
from matchcut.training.failures import explained, stop_unless_finite
from matchcut.training.loading import Batches, keys_of_steps
from matchcut.training.objectives import Batch, Losses, Objective, Say, find_objective
from matchcut.training.optimisation import Average, clip_gradients, make_optimiser, rate_factor, set_rates
from matchcut.training.record import LOG, Pace, Record, progress_line

KIND = "a training run"


def train(
    config: TrainConfig,
    data: Path | Sequence[Path],
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    device: str = "auto",
    cache: Path | None = None,
    inputs: Sequence[Path] = (),
    say: Say = lambda line: None,
) -> Path:
    """Train by a recipe; started by torchrun, this is one of its processes.

    The random numbers of torch, NumPy and Python are seeded on the way.

    Args:
        config: the recipe, from `read_config`.
        data: the folder of the data, or several.
        out: gets `weights.safetensors` (the moving average where there is one), the latest checkpoint and the one
            before, `log.jsonl`, `tensorboard/` and `pictures/`.
        overwrite: remove what an earlier run wrote into `out`; `out/frames` stays, and is of use again.
        resume: go on from the latest checkpoint in `out`, if there is one. What comes is, to the bit, what would have
            come without the interruption, on the same processors with the same number of threads.
        device: "cpu", "cuda", "mps" or "auto".
        cache: folder for decoded frames, which runs may share; `out/frames` where None.
        inputs: other files that are read, which nothing is written over.
        say: is given each line of progress.

    Returns:
        The file of weights.

    Raises:
        TrainingError: the recipe does not fit, `resume` finds another run, a loss is not finite, or memory is short.
        DatasetError: there is nothing to learn from in `data`.
        ModelError: no such device.
        OutputError: `out` cannot be written, holds something and neither `overwrite` nor `resume` is set, lies in the
            data, or holds what is read, or files of the user's where some would be written.
    """
    roots = [Path(data)] if isinstance(data, str | Path) else [Path(one) for one in data]
    out = Path(out)
    with launched(config, device) as fabric, explained(config):
        if not fabric.is_global_zero:
            say = _silent
        how: Any = {"inputs": [*roots, *inputs], "overwrite": overwrite, "resume": resume}
        if config.weights:
            how["inputs"].append(Path(config.weights))
        names = _check_folder(out, roots, how)
        slow = fabric.device.type == "cpu" and pick_precision("auto", fabric.device) != torch.bfloat16
        if slow and config.precision == "bfloat16":
            say('this processor has no units for products of bfloat16 (AMX); precision = "float32" is faster')
        seed_all(config.seed, MAKE)
        objective = find_objective(config.objective)(config, roots, cache or out / "frames", say)
        if len(objective.samples) == 0:
            raise DatasetError(f"{', '.join(map(str, roots))}: no clip can be drawn from it")
        if config.weights:
            load_weights(objective.network, Path(config.weights))
        objective.network.to(fabric.device).train()
        optimiser = make_optimiser(objective.network, config.optimiser)
        average = Average(objective.network, config.average) if config.average else None
        about = about_run(config, objective.samples.describe(), fabric.world_size)
        state = TrainingState(objective, optimiser, average, about)
        if resume and (found := read_latest(out, say)):
            state.restore(*found)
        fabric.barrier()  # all have looked into the folder before one writes to it
        with run_folder(out, KIND, names, **how) if fabric.is_global_zero else noted_in(out) as manifest:
            record = Record(manifest, state.step, say) if fabric.is_global_zero else None
            try:
                with closing(record) if record else nullcontext():
                    _loop(fabric, config, state, out, record)
            except BaseException:
                if record and state.step == 0:  # it never began: the folder is free for another try
                    record.discard()
                raise
    return out / WEIGHTS


def _loop(fabric: Fabric, config: TrainConfig, state: TrainingState, out: Path, record: Record | None) -> None:
    objective, samples, say = state.objective, state.objective.samples, record.say if record else _silent
    rank, processes, parts = fabric.global_rank, fabric.world_size, config.accumulate
    an_epoch = -(-len(samples) // (config.batch_size * parts * processes))
    total = an_epoch * config.epochs
    say(f"{samples.describe()}; {config.epochs} epochs of {an_epoch} steps, {state.step} of {total} are done")

    model = fabric.setup_module(_Loss(objective))
    keys = keys_of_steps(range(state.step, total), an_epoch, config.batch_size, parts, rank, processes)
    batches = Batches(samples, keys, workers=config.workers, pin=fabric.device.type == "cuda")
    pace, first, saved, unread = Pace(), state.step, time.monotonic(), set[str]()

    while state.step < total:
        epoch, place = divmod(state.step, an_epoch)
        if place == 0:
            share_buffers(objective.network)
            seed_all(config.seed, state.step, EPOCH)
            with fabric.autocast():
                objective.start_epoch(epoch, say)
            model.train()

        # --- one step: `parts` batches, one change of the weights
        seed_all(config.seed, state.step, STEP, rank=rank)
        factor = rate_factor(config.schedule, state.step, an_epoch, config.epochs)
        set_rates(state.optimiser, factor)
        loss = torch.zeros((), device=fabric.device)
        for part in range(parts):
            drawn = batches.next()
            unread |= _name_unreadable(samples.unreadable(drawn), unread, say)
            batch: Batch = fabric.to_device(drawn)
            with fabric.no_backward_sync(model, enabled=part < parts - 1):
                one, named = model(batch, epoch)
                fabric.backward(one / parts)
            loss = loss + one.detach() / parts
            state.means.add(named)
            pace.add(batch["frames"].shape[:-3].numel())
        norm = clip_gradients(objective.network, config.optimiser.clip)
        where = f"epoch {epoch + 1}/{config.epochs} step {state.step + 1}/{total}"
        stop_unless_finite(loss, norm, where)
        state.optimiser.step()
        state.optimiser.zero_grad()
        state.step += 1
        if state.average:
            state.average.update(state.step)
        state.means.add({"loss": loss, "gradient": norm})

        # --- what is told and kept of it
        if state.step % config.log_every == 0 or state.step == total:
            values = {
                **state.means.take(lambda means: _mean_of_all(fabric, means)),
                "rate": config.optimiser.rate * factor,
            }
            speed, left = pace.take(batches.waited, processes, state.step - first, total - state.step)
            if record:
                record.scalars(state.step, epoch, values, speed)
                say(progress_line(where, values, speed, left))
        ends = place == an_epoch - 1 and ((epoch + 1) % config.pictures_every == 0 or state.step == total)
        if ends and record:
            record.pictures(state.step, epoch + 1, _pictures(fabric, objective, batch, epoch))
            model.train()
        if record and (state.step == total or time.monotonic() - saved >= 60 * config.save_minutes):
            state.save(out, config)
            saved = time.monotonic()
    everywhere = union_of_all(unread)
    _name_unreadable(sorted(everywhere), unread, say)
    if everywhere:
        say(f"{len(everywhere)} frames could not be read and were skipped")


class _Loss(nn.Module):
    """The objective's loss as a module, so that one call goes through autocast and DDP however it uses its network."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.network = objective.network
        self._loss = objective.loss

    def forward(self, batch: Batch, epoch: int) -> Losses:
        loss, parts = self._loss(batch, epoch)
        return loss, {name: part.detach() for name, part in parts.items()}


def _pictures(fabric: Fabric, objective: Objective, batch: Batch, epoch: int) -> dict[str, Any]:
    objective.network.eval()
    with torch.no_grad(), fabric.autocast():
        return objective.pictures(batch, epoch)


def _mean_of_all(fabric: Fabric, values: Tensor) -> Tensor:
    found = fabric.all_reduce(values)
    assert isinstance(found, Tensor)
    return found


def _name_unreadable(names: Sequence[str], known: set[str], say: Say) -> set[str]:
    """Those not yet known, each of which is said."""
    new = set(names) - known
    for name in sorted(new):
        say(f"{name}: cannot be read; it is skipped")
    return new


def _check_folder(out: Path, roots: Sequence[Path], how: dict[str, Any]) -> list[str]:
    """Before anything is read: the paths in a run's folder that will be written, as far as they are known.

    Raises:
        OutputError: see `train`.
    """
    if root := next((one for one in roots if is_inside(out, one)), None):
        raise OutputError(f"{out} lies in {root}, all of which is learned from: give another folder with -o")
    names = [WEIGHTS, LOG, *(path.name for path in checkpoints(out))]
    check_run(out, KIND, names, **how)
    return names


def _silent(line: str) -> None:
    """What all processes but the first say."""
