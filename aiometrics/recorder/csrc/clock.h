/* The clock that everything is timed with: the system's, or for tests one that Python supplies.

   The call is half the cost of asking the system. Where the system itself derives its clock from a
   counter of the processor, the counter is read instead and added to the system's last answer, for
   a millisecond; then the system is asked again. So nothing drifts, and a counter that jumps, on a
   machine that was suspended or moved, is not trusted. */
#ifndef AIOMETRICS_CLOCK_H
#define AIOMETRICS_CLOCK_H

#include "seldom.h"

#include <Python.h>
#include <stdint.h>
#include <time.h>

#if defined(__linux__) && defined(__x86_64__) && defined(__GNUC__)
#include <x86intrin.h>
#define CLOCK_COUNTS 1
#else
#define CLOCK_COUNTS 0
#endif

#define SECOND_NS INT64_C(1000000000)

/* The clock that time.monotonic reads, because readers compare the two. */
#if defined(__APPLE__)
#define CLOCK_SYSTEM CLOCK_UPTIME_RAW
#elif defined(CLOCK_MONOTONIC)
#define CLOCK_SYSTEM CLOCK_MONOTONIC
#endif

extern PyObject *system_clock; /* aiometrics.base.clock.monotonic */

int clock_init(void);

/* Returns what to keep of a clock that Python supplied: NULL for the system's, which C reads
   itself. */
PyObject *clock_kept(PyObject *given);

SELDOM int clock_call(PyObject *given, int64_t *now);

/* monotonic_ns() for Python: what a recorder without a clock of its own reads. */
PyObject *clock_monotonic_ns(PyObject *module, PyObject *ignored);

#ifdef CLOCK_SYSTEM
static inline int64_t
clock_read_system(void)
{
    struct timespec reading;
    (void)clock_gettime(CLOCK_SYSTEM, &reading);
    return (int64_t)reading.tv_sec * SECOND_NS + reading.tv_nsec;
}
#endif

#if CLOCK_COUNTS

/* The system's answer when the counter was at `count`. The process has one; the GIL protects it. */
typedef struct {
    uint64_t count;
    uint64_t valid_counts; /* for how many counts it is valid; 0 if it is not */
    uint64_t scale;        /* nanoseconds per 2**32 counts; 0 if unknown */
    int64_t system_ns;
    int64_t last_ns;       /* the last reading, below which none may be */
} Anchor;

extern Anchor clock_anchor;

int64_t clock_new_anchor(void);

static inline int64_t
clock_system(void)
{
    uint64_t counted = __rdtsc() - clock_anchor.count;
    int64_t now = counted < clock_anchor.valid_counts ? clock_anchor.system_ns + (int64_t)(counted * clock_anchor.scale >> 32) : clock_new_anchor();
    clock_anchor.last_ns = now = Py_MAX(now, clock_anchor.last_ns);
    return now;
}

#elif defined(CLOCK_SYSTEM)
#define clock_system clock_read_system
#endif

/* Reads the clock. -1 with an exception; the system's clock never fails. */
static inline int
clock_read(PyObject *given, int64_t *now)
{
    if (given != NULL) {
        return clock_call(given, now);
    }
#ifdef CLOCK_SYSTEM
    *now = clock_system();
#endif
    return 0;
}

#endif
