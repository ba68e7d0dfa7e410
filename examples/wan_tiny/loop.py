"""Run a training step many times: as one CUDA graph, on a schedule tied to steps, with a mean of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# Steps between two updates of the running mean, and between two looks at the clock.
_MEAN_EVERY, _CLOCK_EVERY = 4, 20
_WARM_RUNS = 4
# Adam starts again after a resume, so the learning rate climbs again too.
_RESUME_WARM_UP = 100
_LOG_LINES = 10


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate that climbs for ``warm_up`` steps and falls along a cosine to ``end`` times its peak."""

    steps: int
    peak: float
    end: float
    warm_up: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        fall = self.end + (1 - self.end) * (1 + math.cos(math.pi * min(1.0, step / self.steps))) / 2
        return self.peak * min(1.0, (step + 1) / self.warm_up) * fall


def optimizer(groups: list[list[Any]], device: Any, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over groups of parameters, each with its own rate; on CUDA its step can be captured."""
    cuda = device.type == "cuda"

    def rate() -> Any:
        return torch.tensor(0.0, device=device) if cuda else 0.0

    parameters = [{"params": group, "lr": rate()} for group in groups]
    return torch.optim.AdamW(
        parameters, lr=rate(), betas=(0.9, 0.98), weight_decay=weight_decay, fused=cuda, capturable=cuda
    )


def set_rates(optimizer: torch.optim.AdamW, rates: list[float]) -> None:
    """Set the learning rate of each group, in place where a captured graph reads that very tensor."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def forget(optimizer: torch.optim.AdamW) -> None:
    """Set the optimizer's memory to zero in place."""
    for state in optimizer.state.values():
        for value in state.values():
            if torch.is_tensor(value):
                value.zero_()


def captured(step: Callable[[], None], device: Any) -> Callable[[], None]:
    """Return ``step`` as one CUDA graph: forward, backward and optimizer.

    At this size launching kernels costs more than computing. The runs that warm up are real steps; the caller sets the
    learning rate to zero before, and afterwards forgets what the optimizer learned.
    """
    if device.type != "cuda":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_RUNS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    torch.cuda.synchronize()
    replay: Callable[[], None] = graph.replay
    return replay


class RunningMean:
    """A copy of a module's parameters that follows them slowly; it is the copy that is kept."""

    def __init__(self, pairs: list[tuple[Any, Any]], decay: float) -> None:
        """Follow each live module with its copy. ``pairs``: (copy, live)."""
        self._tensors = [(list(copy.parameters()), list(live.parameters())) for copy, live in pairs]
        self._decay = decay

    def update(self, step: int, every: int) -> None:
        """Move towards the live weights, by ``every`` steps at once; early on faster than the decay says."""
        decay = min(self._decay, (1 + step) / (10 + step)) ** every
        with torch.no_grad():
            for mean, live in self._tensors:
                torch._foreach_lerp_(mean, live, 1 - decay)


@dataclass(slots=True)
class Loop:
    """Steps of one phase, from ``start`` to the schedule's end or until the deadline."""

    name: str
    schedule: Schedule
    start: int
    deadline: float  # of time.monotonic
    losses: Any  # a tensor to which each step adds its loss
    mean: RunningMean | None = None

    def run(
        self, step: Callable[[], None], rates: Callable[[float], None], watch: Callable[[int], None] | None = None
    ) -> int:
        """Take the steps, and return how many of the phase are done.

        Args:
            step: Takes one step.
            rates: Sets the learning rate for the next one.
            watch: Called with the number of steps done every tenth of the phase.
        """
        done, began, shown = self.start, time.monotonic(), self.start
        every = max(1, self.schedule.steps // _LOG_LINES)
        self.losses.zero_()
        while done < self.schedule.steps:
            rates(self.schedule.rate(done) * min(1.0, (done - self.start + 1) / _RESUME_WARM_UP))
            step()
            done += 1
            if self.mean and done % _MEAN_EVERY == 0:
                self.mean.update(done, _MEAN_EVERY)
            if done % every == 0 or done == self.schedule.steps:
                loss = (self.losses / (done - shown)).tolist()
                speed = (done - self.start) / (time.monotonic() - began)
                log(f"{self.name} {done}/{self.schedule.steps}: loss {loss}, {speed:.1f} steps/s")
                shown = done
                self.losses.zero_()
                if watch:
                    watch(done)
            if done % _CLOCK_EVERY == 0:
                if self.losses.is_cuda:
                    torch.cuda.synchronize()
                if time.monotonic() > self.deadline:
                    break
        return done


_BEGAN = time.monotonic()


def log(message: str) -> None:
    """Print a line with the seconds since the program began."""
    print(f"[{time.monotonic() - _BEGAN:6.1f}] {message}", flush=True)
