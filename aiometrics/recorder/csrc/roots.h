/* The table of roots: the coroutine that a task steps -> what is known of the task.

   A coroutine is in the table from the moment it is offered to a task until it is done or freed.
   Keys are borrowed, so that nothing is kept alive: an entry is removed before its coroutine goes,
   by the hook in the destructor of coroutines (slot.c). */
#ifndef AIOMETRICS_ROOTS_H
#define AIOMETRICS_ROOTS_H

#include "recorder.h"

/* An entry is the address of a Traced, or that of a coroutine plus the reason why its task is not
   followed. */
typedef uintptr_t Root;
enum { ROOT_LEFT_OUT = 1, ROOT_REFUSED = 2, ROOT_REASON = 3 };

typedef struct {
    Root *entries;
    size_t mask; /* capacity - 1, a power of two less one */
    size_t used;
} Roots;

extern Roots roots;
/* Stands for every task that is not followed: left out by sampling, or of a loop that is not traced. */
extern Traced roots_left_out;

static inline PyObject *
root_coroutine(Root root)
{
    return root & ROOT_REASON ? (PyObject *)(root & ~(Root)ROOT_REASON) : ((Traced *)root)->coro;
}

static inline size_t
root_hash(PyObject *coro)
{
    uint64_t hash = ((uint64_t)(uintptr_t)coro >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(hash >> 32);
}

/* What is known of the task of a coroutine: NULL if nothing is. */
static inline Traced *
roots_get(PyObject *coro)
{
    for (size_t place = root_hash(coro) & roots.mask; roots.entries[place] != 0; place = (place + 1) & roots.mask) {
        Root root = roots.entries[place];
        if (root_coroutine(root) == coro) {
            return root & ROOT_REASON ? &roots_left_out : (Traced *)root;
        }
    }
    return NULL;
}

/* Adds a record for a coroutine that is not in the table. -1 with an exception. */
Traced *roots_add(PyObject *coro);
int roots_leave_out(PyObject *coro, int reason);

/* Removes what is known of a coroutine, which must be something. The record is freed, at once or
   after the last of its steps that are on the C stack. Returns the scope that it belonged to, for
   the caller to release when Python may run. */
Scope *roots_remove(PyObject *coro);

/* A step on the C stack, which refers to the record, begins or ends. */
static inline void
roots_enter_step(Traced *traced)
{
    traced->steps++;
}

static inline void
roots_leave_step(Traced *traced)
{
    if (--traced->steps == 0 && traced->orphaned) {
        PyMem_Free(traced);
    }
}

/* Removes the records of a recorder that goes, in which no scope is left. */
void roots_forget(const Recorder *recorder);

/* Removes what was refused, since other loops are traced now. */
void roots_forget_refused(void);

/* Removes everything, and retires the recorders, which will hear of no more steps. */
void roots_clear(void);

#endif
