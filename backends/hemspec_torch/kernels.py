"""Two Triton kernels: HEM or multi-class margin loss forward, with a bit for each kept error, and backward from the bits.

A program works on a tile of positions x classes, in memory order whichever way round that is: one long row, several
short ones, or, with the classes behind the batch, a run of pixels at every class. The classes of a tile are
``(classes / 8, 8)``, so that the eight bits of a byte meet in one thread.

A tile that holds all classes is *resident*: it is read once and stays in registers. Otherwise the classes come in
several tiles and HEM reads them twice, since it needs the threshold first; the second pass runs backwards, because what
was read last is still in the cache.

Importing this file imports Triton. `fused` calls the kernels, and says what the arguments are.
"""

import triton
import triton.language as tl

CLASSES_ADJACENT = tl.constexpr(0)
PIXELS_ADJACENT = tl.constexpr(1)
NOTHING_ADJACENT = tl.constexpr(2)


@triton.jit
def lengths(classes, pixels, stride_image, stride_class, stride_pixel, ADJACENT: tl.constexpr, ALIGN: tl.constexpr):
    """Sizes and strides. Multiples of `ALIGN` come divided by it, so that the compiler sees how far it can vectorise."""
    if ADJACENT == CLASSES_ADJACENT:
        return classes * ALIGN, pixels, stride_image * ALIGN, 1, stride_pixel * ALIGN
    elif ADJACENT == PIXELS_ADJACENT:
        return classes, pixels * ALIGN, stride_image * ALIGN, stride_class * ALIGN, 1
    else:
        return classes, pixels, stride_image, stride_class, stride_pixel


@triton.jit
def places(tiles, pixels, POSITIONS: tl.constexpr):
    """The image of this program, its pixels, and which of them exist."""
    program = tl.program_id(0)
    pixel = (program % tiles) * POSITIONS + tl.arange(0, POSITIONS)
    return (program // tiles).to(tl.int64), pixel, pixel < pixels


@triton.jit
def steps(count, stride, ADJACENT: tl.constexpr):
    """`count` strides. Of classes that are not adjacent, 32 bits may not hold them."""
    if ADJACENT == CLASSES_ADJACENT:
        return count * stride
    else:
        return count.to(tl.int64) * stride


@triton.jit
def columns(start, CLASSES: tl.constexpr):
    """The classes of a tile, ``(1, classes / 8, 8)``."""
    eights = tl.arange(0, CLASSES // 8) * 8
    return start + eights[None, :, None] + tl.arange(0, 8)[None, None, :]


@triton.jit
def across(numbers):
    """For each position beside its classes."""
    return numbers[:, None, None]


@triton.jit
def added(tile):
    """The sum over all classes of a tile."""
    return tl.sum(tl.sum(tile, 2), 1)


@triton.jit
def largest_of(tile):
    return tl.max(tl.max(tile, 2), 1)


@triton.jit
def quotient(a, b, COMPUTE: tl.constexpr):
    """a / b, rounded once; Triton's own division of float32 is not."""
    if COMPUTE == tl.float32:
        return tl.math.div_rn(a, b.to(tl.float32))
    else:
        return a / b.to(COMPUTE)


@triton.jit
def read_errors(
    row,
    column,
    there,
    classes,
    y,
    z_y,
    margin,
    stride_class,
    ADJACENT: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """e of a tile: 0 at the true class and where no class is. A NaN stays one."""
    z = tl.load(row + steps(column, stride_class, ADJACENT), mask=there & (column < classes), other=0.0).to(COMPUTE)
    difference = (z - across(z_y)) + across(margin)
    rival = (column < classes) & (column != across(y))
    return tl.where(rival, tl.where(difference <= 0, 0.0, difference), 0.0)


@triton.jit
def is_kept(errors, largest, shortfall, classes, HEM: tl.constexpr):
    """K: those of the positive errors that are not below their mean. See `functional.kept_errors` for the form."""
    kept = errors > 0
    if HEM:
        high = (across(largest) - errors) * classes <= across(shortfall)
        kept = kept & tl.where(across(largest) == float("inf"), errors == across(largest), high)
    return kept | (errors != errors)


@triton.jit
def write_bits(bits, kept, start, there, stride, classes, CLASSES: tl.constexpr, ADJACENT: tl.constexpr):
    """A bit for each class of a tile."""
    byte = start // 8 + tl.arange(0, CLASSES // 8)[None, :]
    packed = tl.sum(tl.where(kept, 1 << tl.arange(0, 8)[None, None, :], 0), 2)
    tl.store(bits + steps(byte, stride, ADJACENT), packed.to(tl.uint8), mask=there & (byte * 8 < classes))


@triton.jit
def forward(
    logits,
    labels,
    weights,
    margins,
    margin_low,
    margin_high,
    bits,
    numbers,
    indices,
    positions,
    tiles,
    classes,
    pixels,
    stride_image,
    stride_class,
    stride_pixel,
    stride_label,
    stride_weight,
    stride_margin,
    bits_image,
    bits_byte,
    bits_pixel,
    margin,
    ignore_index,
    HEM: tl.constexpr,
    ACTIVE: tl.constexpr,
    IGNORING: tl.constexpr,
    WEIGHTED: tl.constexpr,
    READ_MARGIN: tl.constexpr,
    KEEP: tl.constexpr,
    ADJACENT: tl.constexpr,
    ALIGN: tl.constexpr,
    POSITIONS: tl.constexpr,
    CLASSES: tl.constexpr,
    RESIDENT: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    classes, pixels, stride_image, stride_class, stride_pixel = lengths(
        classes, pixels, stride_image, stride_class, stride_pixel, ADJACENT, ALIGN
    )
    image, pixel, inside = places(tiles, pixels, POSITIONS)
    position = image * pixels + pixel

    # Which positions exist, what they are, what they weigh; `good` is False where a value is none of those allowed.
    label = tl.load(labels + position * stride_label, mask=inside, other=0).to(tl.int64)
    valid, good = inside, (label >= 0) & (label < classes)
    y = tl.where(good, label, 0)
    weight = tl.full([POSITIONS], 1.0, COMPUTE)
    if IGNORING:
        valid = valid & (label != ignore_index)
    if WEIGHTED:
        weight = tl.load(weights + position * stride_weight, mask=inside, other=0).to(COMPUTE)
        valid = valid & (weight != 0)
        weight = tl.where((weight >= 0) & (weight < float("inf")), weight, float("nan"))
    if READ_MARGIN:
        m = tl.load(margins + y * stride_margin).to(COMPUTE)
        good = good & (tl.load(margin_low) >= 0) & (tl.load(margin_high) < float("inf"))
    else:
        m = tl.full([POSITIONS], margin, COMPUTE)

    start_of_row = image * stride_image + pixel.to(tl.int64) * stride_pixel
    z_y = tl.load(logits + start_of_row + y * stride_class, mask=valid, other=0.0).to(COMPUTE)
    row = across(logits + start_of_row)
    # What does not exist need not be read, where that does not break up the runs that are read at once.
    there = across(valid if ADJACENT == CLASSES_ADJACENT else inside)
    bits_row = (bits + image * bits_image + pixel.to(tl.int64) * bits_pixel)[:, None]

    shortfall = tl.zeros([POSITIONS], COMPUTE)
    if RESIDENT:
        column = columns(0, CLASSES)
        errors = read_errors(row, column, there, classes, y, z_y, m, stride_class, ADJACENT, COMPUTE)
        largest = largest_of(errors)
        if HEM:
            shortfall = added(tl.where(column < classes, across(largest) - errors, 0.0))
        kept = is_kept(errors, largest, shortfall, classes, HEM)
        count, total = added(kept.to(tl.int32)), added(tl.where(kept, errors, 0.0))
        if KEEP:
            write_bits(bits_row, kept, 0, inside[:, None], bits_byte, classes, CLASSES, ADJACENT)
    else:
        last = (classes - 1) // CLASSES
        largest = tl.zeros([POSITIONS], COMPUTE)
        if HEM:
            # Each element of the tile has a maximum of its own and the shortfalls of what it has seen from that, so
            # that nothing is exchanged between threads until the end. Where all errors are equal every term is 0.
            peaks = tl.zeros([POSITIONS, CLASSES // 8, 8], COMPUTE)
            short = tl.zeros([POSITIONS, CLASSES // 8, 8], COMPUTE)
            for i in range(0, last + 1):
                column = columns(i * CLASSES, CLASSES)
                errors = read_errors(row, column, there, classes, y, z_y, m, stride_class, ADJACENT, COMPUTE)
                higher = tl.maximum(peaks, errors)
                grown = short + (higher - peaks) * i + (higher - errors)
                short = tl.where(column < classes, grown, short)
                peaks = tl.where(column < classes, higher, peaks)
            largest = largest_of(peaks)
            seen = last + (columns(last * CLASSES, CLASSES) < classes).to(tl.int32)
            shortfall = added(short + (across(largest) - peaks) * seen)
        counts = tl.zeros([POSITIONS, CLASSES // 8, 8], tl.int32)
        totals = tl.zeros([POSITIONS, CLASSES // 8, 8], COMPUTE)
        for i in range(0, last + 1):
            start = (last - i) * CLASSES
            column = columns(start, CLASSES)
            errors = read_errors(row, column, there, classes, y, z_y, m, stride_class, ADJACENT, COMPUTE)
            kept = is_kept(errors, largest, shortfall, classes, HEM)
            counts += kept.to(tl.int32)
            totals += tl.where(kept, errors, 0.0)
            if KEEP:
                write_bits(bits_row, kept, start, inside[:, None], bits_byte, classes, CLASSES, ADJACENT)
        count, total = added(counts), added(totals)

    size = tl.maximum(count, 1) if HEM else tl.full([POSITIONS], 1, tl.int32) * classes
    value = tl.where(good, quotient(total, size, COMPUTE), float("nan")) * tl.where(weight == weight, 1.0, weight)
    spoilt = value != value
    counted = valid
    if ACTIVE:
        counted = valid & ((value > 0) | spoilt)
    slope = tl.where(count > 0, quotient(weight, size, COMPUTE), 0.0)
    slope = tl.where(valid, tl.where(spoilt, float("nan"), slope), 0.0)
    tl.store(numbers + position, tl.where(valid, value * weight, 0.0), mask=inside)
    tl.store(numbers + positions + position, tl.where(counted, weight, 0.0), mask=inside)
    if KEEP:
        tl.store(numbers + 2 * positions + position, slope, mask=inside)
        tl.store(indices + position, y.to(tl.int32), mask=inside)
        tl.store(indices + positions + position, count, mask=inside)


@triton.jit
def backward(
    gradient,
    upstream,
    bits,
    slopes,
    indices,
    positions,
    tiles,
    classes,
    pixels,
    stride_image,
    stride_class,
    stride_pixel,
    stride_upstream,
    bits_image,
    bits_byte,
    bits_pixel,
    ADJACENT: tl.constexpr,
    ALIGN: tl.constexpr,
    POSITIONS: tl.constexpr,
    CLASSES: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    classes, pixels, stride_image, stride_class, stride_pixel = lengths(
        classes, pixels, stride_image, stride_class, stride_pixel, ADJACENT, ALIGN
    )
    image, pixel, inside = places(tiles, pixels, POSITIONS)
    position = image * pixels + pixel
    slope = tl.load(slopes + position, mask=inside, other=0.0)
    y = tl.load(indices + position, mask=inside, other=0)
    count = tl.load(indices + positions + position, mask=inside, other=0)
    above = tl.load(upstream + position * stride_upstream, mask=inside, other=0.0).to(COMPUTE)
    # A slope of 0 has no errors or no position behind it, and stays 0 whatever comes from above.
    scaled = tl.where(slope == 0, 0.0, slope * above)
    spoilt = across(slope != slope)

    start = tl.program_id(1) * CLASSES
    column = columns(start, CLASSES)
    byte = (start // 8 + tl.arange(0, CLASSES // 8))[None, :, None]
    bits_row = bits + image * bits_image + pixel.to(tl.int64) * bits_pixel
    there = across(inside)
    packed = tl.load(across(bits_row) + steps(byte, bits_byte, ADJACENT), mask=there & (byte * 8 < classes), other=0).to(tl.int32)
    kept = ((packed >> tl.arange(0, 8)[None, None, :]) & 1) != 0
    result = tl.where(kept | spoilt, across(scaled), 0.0)
    result = tl.where(column == across(y), across(-scaled * count.to(COMPUTE)), result)
    row = across(gradient + image * stride_image + pixel.to(tl.int64) * stride_pixel)
    tl.store(row + steps(column, stride_class, ADJACENT), result.to(gradient.dtype.element_ty), mask=there & (column < classes))
