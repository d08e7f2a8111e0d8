"""How the deformable convolution's kernels cut their work, and which sizes they can address. Plain Python."""

from typing import NamedTuple

TAPS = 9
SMALLEST_DOT = 16
MOST_ELEMENTS = 2**31 - 1  # of an array that a kernel addresses: indices are int32


class Blocks(NamedTuple):
    """How a kernel cuts its work: what one program has at a time, and the warps that compute it. Sizes are powers of 2."""

    pixels: int
    channels: int  # of `x`
    outs: int  # channels of the output
    warps: int


class Choice(NamedTuple):
    """The blocks of each kernel: of the output; of the gradients of features, offsets and mask; of the weights' gradient."""

    forward: Blocks = Blocks(32, 32, 64, 8)
    data: Blocks = Blocks(16, 32, 64, 8)
    weight: Blocks = Blocks(32, 32, 64, 8)


def blocks_for(channels: int, dtype: str) -> Choice:
    """The blocks for features of this dtype with so many channels.

    Of the variants that spill no registers, those that let the most threads of a multiprocessor run at once, or nearly; compiled
    for an H200, see FLOORS.md. They are the same for both dtypes. Not measured on a device yet, see `kernels.tune`.
    """
    del dtype
    if channels < 256:
        return Choice()
    wide = Blocks(16, 64, 64, 8)
    return Choice(forward=wide, weight=wide)


class Plan(NamedTuple):
    """Static sizes: of the operation, and of its blocks."""

    n: int
    height: int
    width: int
    out_height: int
    out_width: int
    groups: int
    channels: int  # of a group
    out_channels: int
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    interpret: bool = False
    choice: Choice = Choice()
    blocks: Blocks = Choice().forward  # of the kernel at hand

    def of(self, kernel: str) -> "Plan":
        """The plan of one kernel, a field of `Choice`."""
        return self._replace(blocks=getattr(self.choice, kernel))

    @property
    def pixels(self) -> int:
        return self.n * self.out_height * self.out_width

    @property
    def channel_block(self) -> int:  # all channels of a group
        return _power_of_2(self.channels)

    @property
    def group_block(self) -> int:  # as many as make a block of channels, and at least the 16 that a dot product needs
        most = max(self.blocks.channels // self.channel_block, SMALLEST_DOT // self.channel_block, 1)
        return min(most, max(_power_of_2(self.groups), SMALLEST_DOT // self.channel_block))

    @property
    def group_blocks(self) -> int:
        return _cdiv(self.groups, self.group_block)

    @property
    def out_block(self) -> int:
        return min(self.blocks.outs, max(SMALLEST_DOT, _power_of_2(self.out_channels)))

    @property
    def padded(self) -> tuple[int, int, int]:
        """Pixels, groups and output channels, rounded up to whole blocks. Kernels write all of them, so stores need no mask."""
        return (
            _cdiv(self.pixels, self.blocks.pixels) * self.blocks.pixels,
            _cdiv(self.groups, self.group_block) * self.group_block,
            _cdiv(self.out_channels, self.out_block) * self.out_block,
        )

    @property
    def elements(self) -> int:
        """Of the largest array that any of the kernels addresses."""
        sizes = [self.n * self.height * self.width * self.groups * self.channels]
        for plan in map(self.of, Choice._fields):
            pixels, groups, outs = plan.padded
            partial = plan.slices * TAPS * groups * plan.channel_block * outs
            sizes += [pixels * groups * TAPS * 2, pixels * outs, partial]
        return max(sizes)

    @property
    def slices(self) -> int:
        """Number of slices of the pixels, for the gradient of the weights."""
        return min(64, _cdiv(self.pixels, self.blocks.pixels))


def elements(x: tuple[int, ...], offset: tuple[int, ...], weight: tuple[int, ...]) -> int:
    """Size of the largest array that a kernel addresses for one image, from the shapes of the arguments."""
    return plan(x, offset, weight)._replace(n=1).elements


def plan(x: tuple[int, ...], offset: tuple[int, ...], weight: tuple[int, ...]) -> Plan:
    """From the shapes of the arguments, with stride, padding and dilation of 1."""
    (n, height, width, channels), (_, out_height, out_width, groups, _, _) = x, offset
    return Plan(n, height, width, out_height, out_width, groups, channels // groups, weight[-1])


def images_at_once(whole: Plan) -> int:
    """The largest part of the batch that can be addressed."""
    return next((n for n in range(whole.n, 0, -1) if whole._replace(n=n).elements <= MOST_ELEMENTS), 0)


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(n: int) -> int:
    """The smallest that is at least `n`."""
    return 1 << (n - 1).bit_length()
