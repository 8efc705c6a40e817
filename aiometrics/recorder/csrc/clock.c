#include "clock.h"

#include <stdio.h>
#include <string.h>

PyObject *system_clock;

#if CLOCK_COUNTS

#define ANCHOR_NS 1000000             /* how long an anchor is valid */
#define MAX_COUNTS_ASKING 512         /* while asking the system; if more, something came between */
#define MAX_CHANGE 1000               /* a scale that changes by more than 1/1000 is not trusted */
#define MIN_SCALE (UINT64_C(1) << 28) /* 16 counts per nanosecond */
#define MAX_SCALE (UINT64_C(1) << 34) /* 4 ns per count */

__extension__ typedef unsigned __int128 Product;

Anchor clock_anchor;
static int system_reads_counter;

/* Whether the system derives its clock from the processor's counter, as it does only while that can
   be trusted. */
static int
read_clock_source(void)
{
    char name[16] = "";
    FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
    if (file != NULL) {
        (void)!fgets(name, sizeof(name), file);
        (void)fclose(file);
    }
    return strcmp(name, "tsc\n") == 0;
}

/* Returns the nanoseconds per 2**32 counts since the last anchor; 0 if they cannot be measured, or
   differ from what they were. */
static uint64_t
measure_scale(uint64_t count, int64_t system_ns)
{
    int64_t elapsed_ns = system_ns - clock_anchor.system_ns;
    uint64_t counted = count - clock_anchor.count;
    if (clock_anchor.count == 0 || elapsed_ns < ANCHOR_NS || counted == 0) {
        return clock_anchor.scale;
    }
    uint64_t scale = (uint64_t)(((Product)elapsed_ns << 32) / counted), known = clock_anchor.scale;
    uint64_t change = scale > known ? scale - known : known - scale;
    if (scale < MIN_SCALE || scale > MAX_SCALE || (known != 0 && change >= known / MAX_CHANGE)) {
        return 0;
    }
    return scale;
}

int64_t
clock_new_anchor(void)
{
    if (!system_reads_counter) {
        return clock_read_system();
    }
    uint64_t before = __rdtsc();
    int64_t system_ns = clock_read_system();
    uint64_t asking = __rdtsc() - before;
    if (asking > MAX_COUNTS_ASKING) {
        return system_ns;
    }
    uint64_t count = before + asking / 2;
    if (clock_anchor.scale == 0 && clock_anchor.count != 0 && system_ns - clock_anchor.system_ns < ANCHOR_NS) {
        return system_ns;
    }
    clock_anchor.scale = measure_scale(count, system_ns);
    clock_anchor.valid_counts = clock_anchor.scale == 0 ? 0 : ((uint64_t)ANCHOR_NS << 32) / clock_anchor.scale;
    clock_anchor.count = count;
    clock_anchor.system_ns = system_ns;
    return system_ns;
}

#endif

int
clock_init(void)
{
#if CLOCK_COUNTS
    system_reads_counter = read_clock_source();
#endif
    PyObject *module = PyImport_ImportModule("aiometrics.base.clock");
    system_clock = module == NULL ? NULL : PyObject_GetAttrString(module, "monotonic");
    Py_XDECREF(module);
    return system_clock == NULL ? -1 : 0;
}

PyObject *
clock_kept(PyObject *given)
{
#ifdef CLOCK_SYSTEM
    return given == NULL || given == system_clock ? NULL : Py_NewRef(given);
#else
    return Py_NewRef(given == NULL ? system_clock : given);
#endif
}

PyObject *
clock_monotonic_ns(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
#ifdef CLOCK_SYSTEM
    return PyLong_FromLongLong(clock_system());
#else
    return PyObject_CallNoArgs(system_clock);
#endif
}

int
clock_call(PyObject *given, int64_t *now)
{
    PyObject *reading = PyObject_CallNoArgs(given);
    if (reading == NULL) {
        return -1;
    }
    *now = PyLong_AsLongLong(reading);
    Py_DECREF(reading);
    return *now == -1 && PyErr_Occurred() ? -1 : 0;
}
