"""AdamW (Loshchilov and Hutter 2019) by torch's own function, without its `Optimizer`.

Building a `torch.optim.AdamW` imports torch's compiler: a second and 70 MB, a good part of a short run.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


@dataclass(frozen=True, slots=True)
class Moments:
    """What AdamW remembers of a parameter."""

    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class AdamW:
    """Over named parameters; those without a gradient are left alone."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self._parameters, self._betas, self._eps, self._weight_decay = parameters, betas, eps, weight_decay
        self._moments: dict[str, Moments] = {}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        used = {name: parameter for name, parameter in self._parameters.items() if parameter.grad is not None}
        for name, parameter in used.items():
            if name not in self._moments:
                self._moments[name] = Moments(
                    torch.tensor(0.0), torch.zeros_like(parameter), torch.zeros_like(parameter)
                )
        moments = [self._moments[name] for name in used]
        adamw(
            list(used.values()),
            [parameter.grad for parameter in used.values() if parameter.grad is not None],
            [item.exp_avg for item in moments],
            [item.exp_avg_sq for item in moments],
            [],
            [item.step for item in moments],
            fused=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=self._eps,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything remembered, by name."""
        return {
            f"{name}.{key}": getattr(moments, key)
            for name, moments in self._moments.items()
            for key in ("step", "exp_avg", "exp_avg_sq")
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""
        self._moments = {
            name: Moments(tensors[f"{name}.step"], tensors[f"{name}.exp_avg"], tensors[f"{name}.exp_avg_sq"])
            for name in self._parameters
            if f"{name}.step" in tensors
        }
