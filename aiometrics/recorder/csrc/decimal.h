/* Numbers of an exposition, exactly as Python writes them: a value is an integer times 10^-scale,
   and less than 10^(15 + scale). */
#ifndef AIOMETRICS_DECIMAL_H
#define AIOMETRICS_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

typedef unsigned __int128 Wide;

/* The most bytes that a number takes. */
#define DECIMAL_BYTES 40

/* Both return how many bytes they wrote. */
size_t decimal_write_integer(char *out, Wide value);

/* As repr() of the float that is nearest to the value. */
size_t decimal_write(char *out, Wide value, int scale);

/* Returns the nearest float. */
double decimal_float(Wide value, int scale);

#endif
