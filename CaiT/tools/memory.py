# SPDX-License-Identifier: Apache-2.0
"""The memory that training a configuration needs on each device, before anyone waits in a queue.

    python -m CaiT.tools.memory -cfg=CaiT/configs/cait_m48_448.yaml
    python -m CaiT.tools.memory -cfg=CaiT/configs/cait_s24_384.yaml --devices 4 --gb 24 -opts TRAIN.RECOMPUTE True

Activations are counted on the model: the bytes of the tensors that a forward pass keeps for its backward pass, of one
image, with one block and with two; the others are like the second. Weights, gradients, optimizer and moving average
follow from the number of parameters. Activations are counted in float32, which with AMP or TRAIN.RECOMPUTE is more than
there are. Not counted: what an operation needs for itself (less than one block keeps), a teacher, communication buffers
and the device's own memory, for which a tenth is left. GB are 10**9 bytes.
"""
from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

if __name__ == '__main__' and not __package__:  # run by path: the package need not be installed
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import runtime
from CaiT.cli import Parser
from CaiT.errors import InputError, run

RESERVE = 0.1  # of a device's memory
MOMENTS = {'AdamW': 2, 'LAMB': 2, 'Momentum': 1}  # arrays of the optimizer for each parameter


@dataclasses.dataclass(frozen=True)
class Activations:
    """Bytes of one image: outside of the blocks, in each block, and a block's input, all that recomputation keeps."""
    other: int
    block: int
    block_input: int
    depth: int

    def required(self, recompute: bool) -> int:
        """Of an image, at the peak: with recomputation one block at a time is kept as a whole."""
        if recompute:
            return self.other + self.depth * self.block_input + self.block
        return self.other + self.depth * self.block


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device; ``activations`` are of one image."""
    activations: Activations
    weights: int
    gradients: int
    optimizer: int
    ema: int

    def required(self, batch_size: int, recompute: bool) -> int:
        fixed = self.weights + self.gradients + self.optimizer + self.ema
        return fixed + batch_size * self.activations.required(recompute)


def measure(config: Any) -> Memory:
    """The memory of training ``config``, a frozen one."""
    import paddle

    from CaiT.config import build_model
    depth = config.MODEL.DEPTH
    one, two = (_saved(config, number) for number in (1, 2))
    block = two[0] - one[0]
    with paddle.LazyGuard():
        count = sum(parameter.size for parameter in build_model(config, pretrained=False).parameters())
    half = config.AMP and config.TRAIN.AMP.LEVEL == 'O2'  # weights and gradients in 2 bytes, and a copy in 4
    return Memory(Activations(one[0] - block, block, one[1], depth), (6 if half else 4) * count,
                  (2 if half else 4) * count, 4 * MOMENTS[config.TRAIN.OPTIMIZER.NAME] * count,
                  4 * count if config.TRAIN.EMA_DECAY else 0)


def _saved(config: Any, depth: int) -> Tuple[int, int]:
    """(bytes that the backward pass of one image needs, bytes of a block's input) of a model with ``depth`` blocks."""
    import paddle

    from CaiT.config import build_model, with_values
    model = build_model(with_values(config, {'MODEL.DEPTH': depth}), pretrained=False)
    model.train()
    inputs: List[int] = []
    model.blocks[0].register_forward_pre_hook(lambda layer, arguments: inputs.append(_bytes(arguments[0])))
    size = config.DATA.IMAGE_SIZE
    images = paddle.zeros([1, config.MODEL.IN_CHANNELS, size, size])
    with _counting(model) as saved:
        saved[images.data_ptr()] = _bytes(images)
        logits = model(images)
        del logits
    return sum(saved.values()), inputs[0]


@contextlib.contextmanager
def _counting(model: Any) -> Iterator[Dict[int, int]]:
    """{address: bytes} of the tensors that are kept for the backward pass, but for parameters."""
    import paddle
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    saved: Dict[int, int] = {}
    alive = []  # an address is another tensor's when its own is gone

    def pack(tensor: Any) -> Any:
        if tensor.data_ptr() not in parameters:
            saved[tensor.data_ptr()] = max(saved.get(tensor.data_ptr(), 0), _bytes(tensor))
            alive.append(tensor)
        return tensor
    with paddle.autograd.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _bytes(tensor: Any) -> int:
    return int(tensor.size) * tensor.element_size()


def fitting(memory: Memory, batch_size: int, accum_iter: int, limit: float) -> Optional[Tuple[int, int, bool]]:
    """(BATCH_SIZE, ACCUM_ITER, RECOMPUTE) with the same number of images per update that fits into ``limit`` bytes,
    with the largest micro-batch that there is; recomputation only where a micro-batch of 8 does not fit without."""
    for recompute, smallest in ((False, min(8, batch_size)), (True, 1)):
        for parts in range(1, batch_size // smallest + 1):
            if batch_size % parts == 0 and memory.required(batch_size // parts, recompute) <= limit:
                return batch_size // parts, accum_iter * parts, recompute
    return None


def lines(config: Any, memory: Memory, devices: int, gigabytes: float) -> List[str]:
    """What the program prints."""
    batch, accum, recompute = config.DATA.BATCH_SIZE, config.TRAIN.ACCUM_ITER, config.TRAIN.RECOMPUTE
    total, limit = memory.required(batch, recompute), (1 - RESERVE) * gigabytes * 1e9
    image = memory.activations
    found = [
        f'{config.MODEL.NAME}, {config.DATA.IMAGE_SIZE} pixels: {devices} devices x DATA.BATCH_SIZE {batch} x '
        f'TRAIN.ACCUM_ITER {accum} = {devices * batch * accum} images per update, TRAIN.RECOMPUTE {recompute}, '
        f'AMP {config.AMP}',
        f'activations of an image: {image.required(recompute) / 1e9:.3f} GB '
        f'({image.required(not recompute) / 1e9:.3f} GB with TRAIN.RECOMPUTE {not recompute})',
        f'on each device: {total / 1e9:.1f} GB = activations {batch * image.required(recompute) / 1e9:.1f} + weights '
        f'{memory.weights / 1e9:.1f} + gradients {memory.gradients / 1e9:.1f} + optimizer {memory.optimizer / 1e9:.1f} '
        f'+ moving average {memory.ema / 1e9:.1f}',
    ]
    if total <= limit:
        return [*found, f'fits into {gigabytes:g} GB, of which {100 * RESERVE:g} % are left']
    settings = fitting(memory, batch, accum, limit)
    if settings is None:
        return [*found, f'does not fit into {gigabytes:g} GB, whatever the settings: a batch of one needs '
                        f'{memory.required(1, True) / 1e9:.1f} GB']
    opts = f'-opts DATA.BATCH_SIZE {settings[0]} TRAIN.ACCUM_ITER {settings[1]} TRAIN.RECOMPUTE {settings[2]}'
    return [*found, f'does not fit into {gigabytes:g} GB; the same update fits with {opts}: '
                    f'{memory.required(settings[0], settings[2]) / 1e9:.1f} GB']


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point; the status is 1 when the configuration does not fit."""
    parser = Parser(__doc__)
    parser.flag('cfg', help='YAML file, or the name of one that comes with the package', metavar='FILE')
    parser.flag('devices', type=int, default=8, help='for the number of images per update')
    parser.flag('gb', type=float, default=32.0, help='memory of a device, in 10**9 bytes')
    parser.flag('opts', nargs='+', default=[], help='config KEY VALUE pairs', metavar='KEY VALUE')
    args = parser.parse_args(argv)
    if args.devices < 1:
        raise InputError(f'--devices: found {args.devices}, expected at least 1')
    if not 0 < args.gb < 1e6:
        raise InputError(f'--gb: found {args.gb}, expected a number above 0')
    runtime.prepare()
    from CaiT.config import get_config
    config = get_config(args.cfg, args.opts)
    found = lines(config, measure(config), args.devices, args.gb)
    print('\n'.join(found))
    return 0 if found[-1].startswith('fits') else 1


if __name__ == '__main__':
    run(main)
