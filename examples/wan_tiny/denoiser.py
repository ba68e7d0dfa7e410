"""Train the text encoder and the transformers by flow matching, on all noise levels or on an expert's part."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from wan_tiny.data_phase import Data
from wan_tiny.loop import Loop, RunningMean, Schedule, captured, forget, log, optimizer, set_rates
from wan_tiny.modules import BOUNDARY, FLOW_SHIFT, embed

BATCH = 256
# How often a caption is left out, so that the model also knows what clips look like in general, which guidance needs.
_CAPTION_DROPPED_SHARE = 0.1
_MEAN_DECAY = 0.9995
_WEIGHT_DECAY = 0.01
# Half of the batch sees its text padded further, as the pipeline would pad it, up to its default of 512.
_LONGER_PADDING_SHARE, _PADDED_TOKENS_MAX = 0.5, 512
# The boundary between the experts before the schedule's shift.
BOUNDARY_BEFORE_SHIFT = BOUNDARY / (FLOW_SHIFT - (FLOW_SHIFT - 1) * BOUNDARY)


class CrossAttention:
    """Attention to a text as if it were padded with any number of rows.

    Nothing masks the padding in Wan's attention to text: rows of zeros take their part, all the same part, so their
    number changes the result. ``n`` equal rows weigh as one row whose logit is higher by log n; adding that here shows
    the model every length at the cost of one.
    """

    def __init__(self, bias: Any) -> None:
        """Attend with ``bias``, [n, 1, 1, tokens], a tensor that each step overwrites."""
        self._bias = bias

    def __call__(
        self,
        attn: Any,
        hidden_states: Any,
        encoder_hidden_states: Any,
        attention_mask: Any = None,
        rotary_emb: Any = None,
    ) -> Any:
        """Attend, [n, video tokens, width] to [n, text tokens, width]."""
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        attended = (logits.float() + self._bias).softmax(dim=-1).to(value.dtype) @ value
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))


def padding_bias(ids: Any) -> Any:
    """Draw a padded length for each text, and return what it adds to the logits of padding rows, [n, 1, 1, tokens]."""
    n, tokens = ids.shape
    used = (ids != 0).sum(dim=1)
    stretch = torch.rand(n, device=ids.device) * math.log(_PADDED_TOKENS_MAX / tokens)
    longer = torch.rand(n, device=ids.device) < _LONGER_PADDING_SHARE
    padded = tokens * torch.exp(torch.where(longer, stretch, 0.0))
    weight = (padded - used) / (tokens - used).clamp(min=1)
    bias = torch.where(ids == 0, weight.clamp(min=1e-3).log()[:, None], 0.0)
    return bias[:, None, None]


@dataclass(frozen=True, slots=True)
class Phase:
    """What to train for: steps ``start`` to the schedule's end, or until the deadline, on a range of noise levels.

    The range is before the shift; the text encoder's learning rate is in the transformer's.
    """

    name: str
    schedule: Schedule
    start: int = 0
    deadline: float = math.inf  # of time.monotonic
    noise: tuple[float, float] = (0.0, 1.0)
    text_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """What may change and how: parameters by name, rows of the text encoder's table, decay."""

    transformer: Callable[[str], bool] = lambda _: True
    text: Callable[[str], bool] = lambda _: True
    text_rows: Any = None  # only these rows of the text encoder's table may change; all if None
    weight_decay: float = _WEIGHT_DECAY
    mean_decay: float = _MEAN_DECAY


class Trainer:
    """The text encoder, one live transformer and their running means.

    Weights are swapped in place, so one captured step serves the joint phase and both experts.
    """

    def __init__(self, text: Any, transformer: Any, data: Data, tuning: Tuning | None = None) -> None:
        """Train the modules where they are; ``mean_text`` and ``mean_transformer`` are what to keep."""
        self._tuning = tuning or Tuning()
        self.text, self.transformer, self._data = text, transformer, data
        self.mean_text, self.mean_transformer = (
            copy.deepcopy(part).eval().requires_grad_(requires_grad=False) for part in (text, transformer)
        )
        self._device = data.latents.device
        self._bias = torch.zeros(BATCH, 1, 1, data.tokens.shape[-1], device=self._device)
        for block in transformer.blocks:
            block.attn2.set_processor(CrossAttention(self._bias))
        groups = [_choose(transformer, self._tuning.transformer), _choose(text, self._tuning.text)]
        self._optimizer = optimizer(groups, self._device, self._tuning.weight_decay)
        self._parameters = [parameter for group in groups for parameter in group]
        self._noise = torch.tensor([0.0, 1.0], device=self._device)
        self._losses = torch.zeros((), device=self._device)
        self._embed, self._denoise = text, transformer
        if self._device.type == "cuda":
            self._embed, self._denoise = torch.compile(text), torch.compile(transformer)
        self._replay: Callable[[], None] | None = None

    def start_from(self, transformer: dict[str, Any], text: dict[str, Any] | None = None) -> None:
        """Set live weights and running means in place, and forget what the optimizer learned."""
        for part in (self.transformer, self.mean_transformer):
            part.load_state_dict(transformer)
        for part in (self.text, self.mean_text) if text else ():
            part.load_state_dict(text)
        forget(self._optimizer)

    def run(self, phase: Phase, watch: Callable[[int], None] | None = None) -> int:
        """Train, and return how many steps are done."""
        start, text_rate = phase.start, phase.text_rate
        torch.manual_seed(1000 + start)
        self._noise.copy_(torch.tensor(phase.noise))
        if self._replay is None:
            set_rates(self._optimizer, [0.0, 0.0])
            self._replay = captured(self._step, self._device)
            forget(self._optimizer)
            log(f"{phase.name}: step captured")
        pairs = [(self.mean_transformer, self.transformer), (self.mean_text, self.text)]
        mean = RunningMean(pairs if text_rate else pairs[:1], self._tuning.mean_decay)
        loop = Loop(phase.name, phase.schedule, start, phase.deadline, self._losses, mean)
        return loop.run(self._replay, lambda rate: set_rates(self._optimizer, [rate, rate * text_rate]), watch)

    def _step(self) -> None:
        """Take noise s in 0 to 1; from (1 - s) clip + s noise the transformer must say noise - clip."""
        clips, ids = self._batch()
        self._bias.copy_(padding_bias(ids))
        noise = torch.randn_like(clips)
        low, high = self._noise
        spread = (torch.arange(BATCH, device=self._device) + torch.rand(BATCH, device=self._device)) / BATCH
        u = low + (high - low) * spread
        sigma = FLOW_SHIFT * u / (1 + (FLOW_SHIFT - 1) * u)
        s = sigma.view(-1, 1, 1, 1, 1)
        with torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False):
            text = embed(self._embed, ids)
            mixed = (1 - s) * clips + s * noise
            said = self._denoise(
                hidden_states=mixed, timestep=sigma * 1000, encoder_hidden_states=text, return_dict=False
            )[0]
        loss = functional.mse_loss(said.float(), noise - clips)
        self.text.zero_grad(set_to_none=True)
        self.transformer.zero_grad(set_to_none=True)
        loss.backward()
        if self._tuning.text_rows is not None:
            self.text.shared.weight.grad.mul_(self._tuning.text_rows[:, None])
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._losses.add_(loss.detach())

    def _batch(self) -> tuple[Any, Any]:
        """Draw clips, and a caption of each or none."""
        latents, tokens = self._data.latents, self._data.tokens
        drawn = torch.randint(len(latents), (BATCH,), device=self._device)
        which = torch.randint(tokens.shape[1], (BATCH,), device=self._device)
        ids = tokens[drawn, which].long()
        # An empty text is its end mark alone, token 1.
        empty = torch.zeros_like(ids)
        empty[:, 0] = 1
        dropped = torch.rand(BATCH, device=self._device) < _CAPTION_DROPPED_SHARE
        return latents[drawn].float(), torch.where(dropped[:, None], empty, ids)


def _choose(module: Any, chosen: Callable[[str], bool]) -> list[Any]:
    """Return the module's parameters whose name is chosen.

    The rest gets gradients too, which nobody uses: the compiled step is then the same one whatever is chosen.
    """
    module.train().requires_grad_(requires_grad=True)
    return [parameter for name, parameter in module.named_parameters() if chosen(name)]
