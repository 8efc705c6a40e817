/* The clock that everything is timed with: the system's, or one that Python gave, for tests. */
#ifndef AIOMETRICS_CLOCK_H
#define AIOMETRICS_CLOCK_H

#include <Python.h>
#include <stdint.h>
#include <time.h>

#define SECOND_NS INT64_C(1000000000)

/* The one that time.monotonic reads: readers compare. */
#if defined(__APPLE__)
#define CLOCK_SYSTEM CLOCK_UPTIME_RAW
#elif defined(CLOCK_MONOTONIC)
#define CLOCK_SYSTEM CLOCK_MONOTONIC
#endif

extern PyObject *system_clock; /* aiometrics.clock.monotonic */

int clock_init(void);

/* What to keep of a clock that was given: NULL stands for the system's, which C reads by itself. */
PyObject *clock_kept(PyObject *given);

int clock_ask(PyObject *given, int64_t *now);

/* -1 with an exception; the system's clock never fails. */
static inline int
clock_read(PyObject *given, int64_t *now)
{
    if (given != NULL) {
        return clock_ask(given, now);
    }
#ifdef CLOCK_SYSTEM
    struct timespec reading;
    (void)clock_gettime(CLOCK_SYSTEM, &reading);
    *now = (int64_t)reading.tv_sec * SECOND_NS + reading.tv_nsec;
#endif
    return 0;
}

#endif
