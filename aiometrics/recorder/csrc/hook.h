/* Intercepts the construction of tasks: in the tp_init slot of _asyncio.Task, which every task of
   that type goes through, however it is constructed, in the slot wrapper Task.__init__, which
   subclasses call, and in the tp_init slot of its twin in Python. Where a root has to be wrapped,
   Task.get_coro still returns the application's coroutine. */
#ifndef AIOMETRICS_HOOK_H
#define AIOMETRICS_HOOK_H

#include "recorder.h"

/* hook(lookup, notice): trace new tasks from now on, and running ones from their next step on.
   lookup(loop) returns the Recorder of a loop, or None not to trace its tasks. notice(type) is told
   of a type of tasks that are not seen, and notice(name) of a place where something has replaced our
   hook, so that tasks are seen from their first step on only. To be called again when other loops are
   to be traced. */
PyObject *hook_install(PyObject *module, PyObject *args);
/* unhook(): restore what was replaced. Returns the names of what something else has replaced since. */
PyObject *hook_remove(PyObject *module, PyObject *ignored);
int hook_init(void);

/* Whether a coroutine is the root of a task that runs in this thread. `running` becomes the loop, a new
   reference, or NULL or None. No exception comes out of it. */
int hook_is_current_root(PyObject *coro, PyObject **running);

/* The recorder of a loop: a new reference, or NULL if the loop is not traced. lookup reports its
   own errors; the only exception that can come out of it is an interrupt of the application. */
Recorder *hook_recorder_of(PyObject *loop);

/* Tells once if the construction of tasks has been replaced, so that it is not seen any more. */
void hook_notice_displaced(void);

/* Removes a retired recorder from the cache of loops, which would keep it, and the code that it has
   met, alive. */
void hook_forget(const Recorder *recorder);

#endif
