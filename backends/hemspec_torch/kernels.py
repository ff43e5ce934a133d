"""Two Triton kernels: HEM or multi-class margin loss forward, with a bit for each kept error, and backward from them.

A program works on a tile of positions x classes, in memory order whichever way round that is: one long row, several
short ones, or, with the classes behind the batch, a run of pixels at every class. The classes of a tile are
``(classes / 8, 8)``, so that the eight bits of a byte meet in one thread.

A tile that holds all classes is *resident*: it is read once and stays in registers. Otherwise the classes come in
several tiles and HEM reads them twice, since it needs the threshold first; the second pass runs backwards, because what
was read last is still in the cache.

While an H100 reads a bfloat16 it can execute about 18 instructions: that is all that an entry may cost. So a mask is
made for eight classes where it can be, the true class is looked for in the one tile that has it, and the counts travel
with the bits.

Importing this file imports Triton. `fused` calls the kernels, and says what the arguments are.
"""

import triton
import triton.language as tl

CLASSES_ADJACENT = tl.constexpr(0)
PIXELS_ADJACENT = tl.constexpr(1)
NOTHING_ADJACENT = tl.constexpr(2)
FLOAT32, FLOAT64 = tl.float32, tl.float64
BITS_ALIGN = tl.constexpr(16)


@triton.jit
def lengths(classes, pixels, stride_image, stride_class, stride_pixel, ADJACENT: tl.constexpr, ALIGN: tl.constexpr):
    """Sizes and strides. Multiples of `ALIGN` come divided by it, so that the compiler knows how to vectorise.

    32 bits may not hold where a row, an image or, unless they are adjacent, a class begins.
    """
    stride_image = stride_image.to(tl.int64)
    if ADJACENT == CLASSES_ADJACENT:
        return classes * ALIGN, pixels, stride_image * ALIGN, 1, stride_pixel.to(tl.int64) * ALIGN
    elif ADJACENT == PIXELS_ADJACENT:
        return classes, pixels * ALIGN, stride_image * ALIGN, stride_class.to(tl.int64) * ALIGN, 1
    else:
        return classes, pixels, stride_image, stride_class.to(tl.int64), stride_pixel.to(tl.int64)


@triton.jit
def bit_strides(image, other, ADJACENT: tl.constexpr):
    """By image, byte and pixel, from multiples of `BITS_ALIGN`."""
    image, other = image.to(tl.int64) * BITS_ALIGN, other.to(tl.int64) * BITS_ALIGN
    if ADJACENT == CLASSES_ADJACENT:
        return image, 1, other
    else:
        return image, other, 1


@triton.jit
def places(tiles, pixels, POSITIONS: tl.constexpr):
    """The image of this program, its pixels, and which of them exist."""
    program = tl.program_id(0)
    pixel = (program % tiles) * POSITIONS + tl.arange(0, POSITIONS)
    return (program // tiles).to(tl.int64), pixel, pixel < pixels


@triton.jit
def columns(start, classes, CLASSES: tl.constexpr, EIGHTS: tl.constexpr):
    """The classes of a tile, ``(1, classes / 8, 8)``, and which of them exist: by eights where that is all."""
    eights = start + tl.arange(0, CLASSES // 8)[None, :, None] * 8
    column = eights + tl.arange(0, 8)[None, None, :]
    return column, (eights if EIGHTS else column) < classes


@triton.jit
def across(numbers):
    """For each position beside its classes."""
    return numbers[:, None, None]


@triton.jit
def read_errors(
    row,
    start,
    classes,
    there,
    y,
    z_y,
    margin,
    stride,
    CLASSES: tl.constexpr,
    EIGHTS: tl.constexpr,
    SEVERAL: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """e of a tile: 0 at the true class and where no class is. A NaN stays one."""
    column, exists = columns(start, classes, CLASSES, EIGHTS)
    z = tl.load(row + column * stride, mask=there & exists, other=0.0).to(COMPUTE)
    difference = (z - across(z_y)) + across(margin)
    errors = tl.where(difference <= 0, 0.0, difference)
    if SEVERAL:
        return tl.where(exists & (column != across(y)), errors, 0.0)
    else:
        true = tl.max(y, 0)
        if (start + CLASSES > classes) | ((true >= start) & (true < start + CLASSES)):
            errors = tl.where(exists & (column != true), errors, 0.0)
        return errors


@triton.jit
def fall_short(reference, errors, start, classes, CLASSES: tl.constexpr, EIGHTS: tl.constexpr):
    """By how much the errors of each eight fall short of a reference, together."""
    _, exists = columns(start, classes, CLASSES, EIGHTS)
    shortfall = across(reference) - errors
    if EIGHTS:
        first = start + tl.arange(0, CLASSES // 8)[None, :] * 8
        return tl.where(first < classes, tl.sum(shortfall, 2), 0.0)
    else:
        return tl.sum(tl.where(exists, shortfall, 0.0), 2)


@triton.jit
def quotient(a, b, COMPUTE: tl.constexpr):
    """a / b, rounded once; Triton's own division of float32 is not."""
    if COMPUTE == tl.float32:
        return tl.math.div_rn(a, b.to(tl.float32))
    else:
        return a / b.to(COMPUTE)


@triton.jit
def threshold(reference, shortfall, largest, size, SMALLEST: tl.constexpr, COMPUTE: tl.constexpr):
    """Errors that are not below it are kept: the mean error, and never more than the largest.

    Args:
        reference: an error, or 0.
        shortfall: how much all errors together fall short of `reference`. Near it the differences are exact, so that
            equal errors have a mean that does not exceed them, in any order of summation.
    """
    mean = tl.minimum(reference - quotient(shortfall, size, COMPUTE), largest)
    return tl.maximum(tl.where(largest == float("inf"), largest, mean), SMALLEST)


@triton.jit
def keep(errors, limit):
    """The sum of the kept errors of each eight; and a bit for each of them, with their number in the bits from 16 on.

    A NaN is not below anything: it is kept, and no sum loses it.
    """
    low = errors < across(limit)
    codes = (1 << tl.arange(0, 8)[None, None, :]) + (1 << 16)
    return tl.sum(tl.where(low, 0.0, errors), 2), tl.sum(tl.where(low, 0, codes), 2)


@triton.jit
def write_bits(bits, codes, start, there, stride, classes, CLASSES: tl.constexpr):
    """A bit for each class of a tile."""
    byte = start // 8 + tl.arange(0, CLASSES // 8)[None, :]
    tl.store(bits + byte * stride, codes.to(tl.uint8), mask=there & (byte * 8 < classes))


# An integer that is 1 or a multiple of 16 is no reason to compile again: `lengths` says what is to be known.
@triton.jit(
    do_not_specialize=[
        "positions",
        "tiles",
        "classes",
        "pixels",
        "stride_image",
        "stride_class",
        "stride_pixel",
        "stride_label",
        "stride_weight",
        "stride_margin",
        "bits_image",
        "bits_other",
        "ignore_index",
    ]
)
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
    bits_other,
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
    SMALLEST: tl.constexpr,
):
    classes, pixels, stride_image, stride_class, stride_pixel = lengths(
        classes, pixels, stride_image, stride_class, stride_pixel, ADJACENT, ALIGN
    )
    bits_image, bits_byte, bits_pixel = bit_strides(bits_image, bits_other, ADJACENT)
    EIGHTS: tl.constexpr = ADJACENT == CLASSES_ADJACENT and ALIGN % 8 == 0
    SEVERAL: tl.constexpr = RESIDENT or POSITIONS > 1
    image, pixel, inside = places(tiles, pixels, POSITIONS)
    position, positions = image * pixels + pixel, positions.to(tl.int64)

    # Which positions exist, what they are, what they weigh; `good` is False where a value is none of those allowed.
    label = tl.load(labels + position * stride_label, mask=inside, other=0).to(tl.int64)
    valid, good = inside, (label >= 0) & (label < classes)
    y = tl.where(good, label, 0).to(tl.int32)
    weight = tl.full([POSITIONS], 1.0, COMPUTE)
    if IGNORING:
        valid = valid & (label != ignore_index)
    if WEIGHTED:
        weight = tl.load(weights + position * stride_weight, mask=inside, other=0).to(COMPUTE)
        valid = valid & (weight != 0)
        weight = tl.where((weight >= 0) & (weight < float("inf")), weight, float("nan"))
    if READ_MARGIN:
        m = tl.load(margins + y * stride_margin).to(COMPUTE)
        low = tl.full([POSITIONS], tl.load(margin_low), COMPUTE)
        high = tl.full([POSITIONS], tl.load(margin_high), COMPUTE)
        good = good & (low >= 0) & (high < float("inf"))
    else:
        m = tl.full([POSITIONS], margin, COMPUTE)

    rows = logits + image * stride_image + pixel * stride_pixel
    z_y = tl.load(rows + y * stride_class, mask=valid, other=0.0).to(COMPUTE)
    row = across(rows)
    # What does not exist need not be read, where that does not break up the runs that are read at once.
    there = across(valid if ADJACENT == CLASSES_ADJACENT else inside)
    bits_row = (bits + image * bits_image + pixel * bits_pixel)[:, None]

    size = tl.full([POSITIONS], 1, tl.int32) * classes
    limit = tl.full([POSITIONS], SMALLEST, COMPUTE)
    if RESIDENT:
        errors = read_errors(row, 0, classes, there, y, z_y, m, stride_class, CLASSES, EIGHTS, SEVERAL, COMPUTE)
        if HEM:
            largest = tl.max(tl.max(errors, 2), 1)
            shortfall = tl.sum(fall_short(largest, errors, 0, classes, CLASSES, EIGHTS), 1)
            limit = threshold(largest, shortfall, largest, size, SMALLEST, COMPUTE)
        totals, codes = keep(errors, limit)
        counts = codes >> 16
        if KEEP:
            write_bits(bits_row, codes, 0, inside[:, None], bits_byte, classes, CLASSES)
    else:
        last = (classes - 1) // CLASSES
        if HEM:
            # The largest of the first tile stands for the largest of all, which is not known yet. Where it is far
            # below, so is the mean error below the large ones, and no rounding brings it there.
            errors = read_errors(row, 0, classes, there, y, z_y, m, stride_class, CLASSES, EIGHTS, SEVERAL, COMPUTE)
            reference = tl.max(tl.max(errors, 2), 1)
            peaks = tl.zeros([POSITIONS, CLASSES // 8], COMPUTE)
            shortfalls = tl.zeros([POSITIONS, CLASSES // 8], COMPUTE)
            for i in range(0, last + 1):
                start = i * CLASSES
                errors = read_errors(
                    row, start, classes, there, y, z_y, m, stride_class, CLASSES, EIGHTS, SEVERAL, COMPUTE
                )
                peaks = tl.maximum(peaks, tl.max(errors, 2))
                shortfalls += fall_short(reference, errors, start, classes, CLASSES, EIGHTS)
            limit = threshold(reference, tl.sum(shortfalls, 1), tl.max(peaks, 1), size, SMALLEST, COMPUTE)
        counts = tl.zeros([POSITIONS, CLASSES // 8], tl.int32)
        totals = tl.zeros([POSITIONS, CLASSES // 8], COMPUTE)
        for i in range(0, last + 1):
            start = (last - i) * CLASSES
            errors = read_errors(row, start, classes, there, y, z_y, m, stride_class, CLASSES, EIGHTS, SEVERAL, COMPUTE)
            more, codes = keep(errors, limit)
            totals += more
            counts += codes >> 16
            if KEEP:
                write_bits(bits_row, codes, start, inside[:, None], bits_byte, classes, CLASSES)

    count, total = tl.sum(counts, 1), tl.sum(totals, 1)
    if HEM:
        size = tl.maximum(count, 1)
    good = good & (weight == weight)
    value = tl.where(good, quotient(total, size, COMPUTE), float("nan"))
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
        tl.store(indices + position, y, mask=inside)
        tl.store(indices + positions + position, count, mask=inside)


@triton.jit(
    do_not_specialize=[
        "positions",
        "tiles",
        "classes",
        "pixels",
        "stride_image",
        "stride_class",
        "stride_pixel",
        "stride_upstream",
        "bits_image",
        "bits_other",
    ]
)
def backward(
    gradient,
    upstream,
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
    stride_upstream,
    bits_image,
    bits_other,
    ADJACENT: tl.constexpr,
    ALIGN: tl.constexpr,
    POSITIONS: tl.constexpr,
    CLASSES: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    classes, pixels, stride_image, stride_class, stride_pixel = lengths(
        classes, pixels, stride_image, stride_class, stride_pixel, ADJACENT, ALIGN
    )
    bits_image, bits_byte, bits_pixel = bit_strides(bits_image, bits_other, ADJACENT)
    EIGHTS: tl.constexpr = ADJACENT == CLASSES_ADJACENT and ALIGN % 8 == 0
    image, pixel, inside = places(tiles, pixels, POSITIONS)
    position, positions = image * pixels + pixel, positions.to(tl.int64)
    slope = tl.load(numbers + 2 * positions + position, mask=inside, other=0.0)
    y = tl.load(indices + position, mask=inside, other=0)
    count = tl.load(indices + positions + position, mask=inside, other=0)
    above = tl.load(upstream + position * stride_upstream, mask=inside, other=0.0).to(COMPUTE)
    # A slope of 0 has no errors or no position behind it, and stays 0 whatever comes from above.
    scaled = tl.where(slope == 0, 0.0, slope * above)

    start = tl.program_id(1) * CLASSES
    column, exists = columns(start, classes, CLASSES, EIGHTS)
    byte = (start // 8 + tl.arange(0, CLASSES // 8))[None, :, None]
    bits_row = across(bits + image * bits_image + pixel * bits_pixel)
    there = across(inside)
    packed = tl.load(bits_row + byte * bits_byte, mask=there & (byte * 8 < classes), other=0)
    packed = tl.where(across(slope == slope), packed, 255)  # a spoilt row is NaN throughout
    kept = ((packed.to(tl.int32) >> tl.arange(0, 8)[None, None, :]) & 1) != 0
    result = tl.where(kept, across(scaled), 0.0)
    result = tl.where(column == across(y), across(-scaled * count.to(COMPUTE)), result)
    row = across(gradient + image * stride_image + pixel * stride_pixel)
    values = result.to(gradient.dtype.element_ty)
    tl.store(row + column * stride_class, values, mask=there & exists)
