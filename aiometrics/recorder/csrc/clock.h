/* The clock that everything is timed with: the system's, or one that Python gave, for tests.

   Half of what it costs to ask the system is the call. Where the system itself derives its clock from a counter of the processor, the
   counter is read instead and added to what the system said last, for a millisecond; then the system is asked again. So nothing drifts,
   and a counter that jumps (a machine that was suspended or moved) is not believed. */
#ifndef AIOMETRICS_CLOCK_H
#define AIOMETRICS_CLOCK_H

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

/* The one that time.monotonic reads: readers compare. */
#if defined(__APPLE__)
#define CLOCK_SYSTEM CLOCK_UPTIME_RAW
#elif defined(CLOCK_MONOTONIC)
#define CLOCK_SYSTEM CLOCK_MONOTONIC
#endif

extern PyObject *system_clock; /* aiometrics.base.clock.monotonic */

int clock_init(void);

/* What to keep of a clock that was given: NULL stands for the system's, which C reads by itself. */
PyObject *clock_kept(PyObject *given);

int clock_ask(PyObject *given, int64_t *now);

/* For Python: what a recorder that was given no clock reads. */
PyObject *clock_tell(PyObject *module, PyObject *ignored);

#ifdef CLOCK_SYSTEM
static inline int64_t
clock_ask_system(void)
{
    struct timespec reading;
    (void)clock_gettime(CLOCK_SYSTEM, &reading);
    return (int64_t)reading.tv_sec * SECOND_NS + reading.tv_nsec;
}
#endif

#if CLOCK_COUNTS

/* What the system said when the counter stood at `count`. The process has one, which the GIL protects. */
typedef struct {
    uint64_t count;
    uint64_t reach; /* how many counts later it is still good; 0 if it is not */
    uint64_t scale; /* nanoseconds in 2**32 counts; 0 if that is not known */
    int64_t said_ns;
    int64_t last_ns; /* the last reading, which none may be below */
} Anchor;

extern Anchor clock_anchor;

int64_t clock_anchor_anew(void);

static inline int64_t
clock_system(void)
{
    uint64_t counted = __rdtsc() - clock_anchor.count;
    int64_t now = counted < clock_anchor.reach ? clock_anchor.said_ns + (int64_t)(counted * clock_anchor.scale >> 32) : clock_anchor_anew();
    clock_anchor.last_ns = now = Py_MAX(now, clock_anchor.last_ns);
    return now;
}

#elif defined(CLOCK_SYSTEM)
#define clock_system clock_ask_system
#endif

/* -1 with an exception; the system's clock never fails. */
static inline int
clock_read(PyObject *given, int64_t *now)
{
    if (given != NULL) {
        return clock_ask(given, now);
    }
#ifdef CLOCK_SYSTEM
    *now = clock_system();
#endif
    return 0;
}

#endif
