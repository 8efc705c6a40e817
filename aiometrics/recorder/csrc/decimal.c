/* What int / int and repr() of a float do in Python, without the GIL. */
#include "decimal.h"

#include <math.h>
#include <string.h>

/* Every decimal of so many digits is the shortest one that reads as the float nearest to it. */
#define EXACT_DIGITS 15
#define EXACT UINT64_C(1000000000000000)
#define MANTISSA_BITS 53

static const uint64_t powers[] = {
    UINT64_C(1),
    UINT64_C(10),
    UINT64_C(100),
    UINT64_C(1000),
    UINT64_C(10000),
    UINT64_C(100000),
    UINT64_C(1000000),
    UINT64_C(10000000),
    UINT64_C(100000000),
    UINT64_C(1000000000),
    UINT64_C(10000000000),
    UINT64_C(100000000000),
    UINT64_C(1000000000000),
    UINT64_C(10000000000000),
    UINT64_C(100000000000000),
    UINT64_C(1000000000000000),
    UINT64_C(10000000000000000),
    UINT64_C(100000000000000000),
    UINT64_C(1000000000000000000),
    UINT64_C(10000000000000000000),
};

/* A float: mantissa * 2^-shift, with 53 bits of mantissa. */
typedef struct {
    uint64_t mantissa;
    int shift;
} Binary;

static int
bits_of(Wide value)
{
    uint64_t high = (uint64_t)(value >> 64);
    return high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)value);
}

/* The float nearest to a value that is not 0; of two, the even one. */
static Binary
nearest(Wide value, int scale)
{
    Wide divisor = powers[scale];
    int shift = MANTISSA_BITS + bits_of(divisor) - bits_of(value);
    if (((value << shift) / divisor) >> MANTISSA_BITS) {
        shift--;
    }
    uint64_t mantissa = (uint64_t)((value << shift) / divisor);
    Wide twice = 2 * ((value << shift) % divisor);
    mantissa += twice > divisor || (twice == divisor && mantissa & 1);
    if (mantissa >> MANTISSA_BITS) {
        mantissa >>= 1;
        shift--;
    }
    return (Binary){mantissa, shift};
}

double
decimal_float(Wide value, int scale)
{
    if (value >> MANTISSA_BITS == 0) {
        return (double)(uint64_t)value / (double)powers[scale];
    }
    if (scale == 0) {
        return (double)value;
    }
    Binary found = nearest(value, scale);
    return ldexp((double)found.mantissa, -found.shift);
}

size_t
decimal_write_integer(char *out, Wide value)
{
    char digits[DECIMAL_BYTES];
    size_t count = 0;
    while (value > UINT64_MAX) {
        digits[count++] = (char)('0' + (int)(value % 10));
        value /= 10;
    }
    uint64_t rest = (uint64_t)value;
    do {
        digits[count++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    for (size_t number = 0; number < count; number++) {
        out[number] = digits[count - 1 - number];
    }
    return count;
}

/* Returns the shortest digits that read as the float nearest to a value of more than EXACT_DIGITS,
   and of those the nearest to it; `scale` becomes theirs. */
static uint64_t
shortest(Wide value, int *scale)
{
    char text[DECIMAL_BYTES];
    int count = (int)decimal_write_integer(text, value);
    Binary found = nearest(value, *scale);
    Wide unit = (Wide)1 << found.shift;
    for (int precision = EXACT_DIGITS;; precision++) {
        int places = *scale - count + precision;
        Wide scaled = (Wide)found.mantissa * powers[places];
        Wide digits = scaled >> found.shift, rest = scaled - (digits << found.shift);
        if (2 * rest > unit || (2 * rest == unit && digits & 1)) {
            digits++;
            rest = unit - rest;
        }
        /* Half of the distance between two floats is powers[places] / 2. */
        if (2 * rest < powers[places] || (2 * rest == powers[places] && !(found.mantissa & 1))) {
            *scale = places;
            return (uint64_t)digits;
        }
    }
}

static char *
put(char *out, const char *text, size_t length)
{
    memcpy(out, text, length);
    return out + length;
}

static char *
put_zeros(char *out, int count)
{
    memset(out, '0', (size_t)count);
    return out + count;
}

/* Writes digits of which `point` are before the decimal point, as repr() does. */
static char *
put_fixed(char *out, const char *digits, int count, int point)
{
    if (point <= 0) {
        out = put_zeros(put(out, "0.", 2), -point);
        return put(out, digits, (size_t)count);
    }
    if (point >= count) {
        out = put_zeros(put(out, digits, (size_t)count), point - count);
        return put(out, ".0", 2);
    }
    out = put(put(out, digits, (size_t)point), ".", 1);
    return put(out, digits + point, (size_t)(count - point));
}

static char *
put_small(char *out, const char *digits, int count, int point)
{
    out = put(out, digits, 1);
    if (count > 1) {
        out = put(put(out, ".", 1), digits + 1, (size_t)(count - 1));
    }
    int exponent = 1 - point;
    const char text[] = {'e', '-', (char)('0' + exponent / 10), (char)('0' + exponent % 10)};
    return put(out, text, sizeof(text));
}

size_t
decimal_write(char *out, Wide value, int scale)
{
    if (value == 0) {
        return (size_t)(put(out, "0.0", 3) - out);
    }
    uint64_t number = value < EXACT ? (uint64_t)value : shortest(value, &scale);
    while (number % 10 == 0) {
        number /= 10;
        scale--;
    }
    char digits[DECIMAL_BYTES];
    int count = (int)decimal_write_integer(digits, number), point = count - scale;
    char *end = point > -4 ? put_fixed(out, digits, count, point) : put_small(out, digits, count, point);
    return (size_t)(end - out);
}
