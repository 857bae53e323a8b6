"""The processes of one training, by accelerate: who this is, sums over all, and weights split over them.

A loss is no module's forward here, so gradients are summed once a step rather than by DistributedDataParallel while
going back. With `sharding = "full"` the blocks of every stack of layers are split by FSDP (`fully_shard`); it sums
theirs. What lies outside such stacks is small, and held whole.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes, reduce
from retake_shared.errors import RetakeError
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class Processes:
    """This process among the `count` of a training. precision: "bf16" or "fp32" arithmetic."""

    def __init__(self, device: Literal["auto", "cpu"], precision: Literal["fp32", "bf16"]) -> None:
        self._state = PartialState(cpu=device == "cpu")
        self.device: torch.device = self._state.device
        self.count = int(self._state.num_processes)
        self.index = int(self._state.process_index)
        self.first = self.index == 0
        self.sharded = False
        self._rounded = precision == "bf16"
        if self.count > 1:
            atexit.register(self._leave)

    def autocast(self) -> torch.autocast:
        """Arithmetic in the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._rounded)

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, elementwise."""
        if self.count == 1:
            return values
        return cast(Tensor, reduce(values, "sum"))

    def any(self, asked: bool) -> bool:
        """Whether any process says so; all hear the same answer."""
        if self.count == 1:
            return asked
        return bool(self.sum(torch.tensor([float(asked)], device=self.device)).item())

    def names(self, own: Iterable[str]) -> list[str]:
        """Those of all processes, each once; all hear the same, in one order."""
        if self.count == 1:
            return list(own)
        # As bytes in a tensor: objects would travel pickled.
        words = torch.tensor(list("\n".join(own).encode()), dtype=torch.uint8, device=self.device)
        rows = gather(pad_across_processes(words[None], dim=1)).tolist()
        return list(dict.fromkeys(name for row in rows for name in bytes(row).rstrip(b"\0").decode().split("\n")))

    def wait(self) -> None:
        """For all processes to come here."""
        self._state.wait_for_everyone()

    def _leave(self) -> None:
        """Leave the group, and let go of the interpreter for a moment before it ends.

        A thread of gloo's that drops the tensors of the last sum waits for it, and aborts the process where it has ended.
        """
        self._state.destroy_process_group()
        time.sleep(0.1)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), 0)

    def shard(self, module: nn.Module) -> None:
        """Split the layers of every stack (nn.ModuleList) over the processes. Raises RetakeError when there is one only."""
        if self.count == 1:
            raise RetakeError(
                'sharding is "full" and there is one process.', "sharding", "Start several with torchrun."
            )
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in _stacked(module):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        self.sharded = True

    @contextmanager
    def whole_layers(self, module: nn.Module) -> Iterator[None]:
        """Split weights as if they were not: each process has all of them. All processes must ask together.

        Not FSDP's own `unshard`: its `state_dict` would split them again.
        """
        split = [
            (owner, name, weight)
            for owner in module.modules()
            for name, weight in owner.named_parameters(recurse=False)
            if isinstance(weight, DTensor)
        ]
        for owner, name, weight in split:
            full = nn.Parameter(weight.full_tensor().detach(), weight.requires_grad)
            owner.register_parameter(name, full)
        try:
            yield
        finally:
            for owner, name, weight in split:
                owner.register_parameter(name, weight)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over all processes; one that was not touched counts as zero."""
        whole = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if isinstance(parameter.grad, DTensor):
                parameter.grad.mul_(self.count)  # FSDP has taken the mean
            else:
                whole.append(parameter.grad)
        if self.count == 1 or not whole:
            return
        for dtype in dict.fromkeys(gradient.dtype for gradient in whole):  # a set has another order in each process
            alike = [gradient for gradient in whole if gradient.dtype == dtype]
            total = self.sum(torch.cat([gradient.flatten() for gradient in alike]))
            for gradient, part in zip(alike, torch.split(total, [g.numel() for g in alike]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def norm(self, gradients: Iterable[Tensor | None]) -> Tensor:
        """The norm of all gradients together, () float32; of all processes' parts where they are split."""
        whole = torch.zeros((), device=self.device)
        split = torch.zeros((), device=self.device)
        for gradient in gradients:
            if isinstance(gradient, DTensor):
                split = split + gradient.to_local().float().square().sum()
            elif gradient is not None:
                whole = whole + gradient.float().square().sum()
        return (whole + (self.sum(split) if self.sharded else split)).sqrt()


def _stacked(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of the outermost stacks that have weights."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from _stacked(child)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor on the CPU, wherever its parts lie; every process must ask."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().to("cpu", copy=True).contiguous()


def like(values: Tensor, example: Tensor) -> Tensor:
    """Values of the CPU as the example lies: on its device, split as it is."""
    values = values.to(example.device, example.dtype)
    if isinstance(example, DTensor):
        return distribute_tensor(values, example.device_mesh, example.placements)
    return values
