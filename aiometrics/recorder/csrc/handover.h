/* Hands the interpreter from loops that never rest to threads that answer scrapes. The twin in
   Python, aiometrics/base/handover.py, says why and is the specification. */
#ifndef AIOMETRICS_HANDOVER_H
#define AIOMETRICS_HANDOVER_H

#include <Python.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The number of threads that are answering, or waiting for the interpreter to do so. */
extern atomic_int handover_asking;

int handover_init_module(PyObject *module);

/* Lets a thread that answers have the interpreter, unless it did not take it the last time. */
void handover_give(void);

/* The same for a loop that does not hold the interpreter now. `before` is what the call before
   returned: nothing is waited for if a thread took it since. */
unsigned handover_wait(unsigned before);

/* Whether the thread of a loop should give it up, once a turn that did not rest. */
static inline int
handover_is_asked(void)
{
    return atomic_load_explicit(&handover_asking, memory_order_relaxed) > 0;
}

/* Sleeps so long; the caller has let go of the interpreter. */
void handover_sleep_ns(int64_t duration_ns);

/* Whether the current thread is one that answers. */
bool handover_answers(void);

/* As Py_BEGIN_ALLOW_THREADS and Py_END_ALLOW_THREADS, for a thread that answers. */
PyThreadState *handover_leave(void);
void handover_return(PyThreadState *state);

#endif
