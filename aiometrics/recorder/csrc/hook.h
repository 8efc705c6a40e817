/* Intercepts the construction of tasks in C: in the tp_init slot of _asyncio.Task, which every task
   of that type goes through, however it is constructed, and in the slot wrapper Task.__init__,
   which subclasses call. Task.get_coro still returns the application's coroutine. */
#ifndef AIOMETRICS_HOOK_H
#define AIOMETRICS_HOOK_H

#include "recorder.h"

/* hook(task_type, lookup): trace new tasks of that type from now on. lookup(loop) returns the
   Recorder of a loop, or None not to trace its tasks. */
PyObject *hook_install(PyObject *module, PyObject *args);
/* unhook(): restore what was replaced. */
PyObject *hook_remove(PyObject *module, PyObject *ignored);

/* The recorder of a loop: a new reference, or NULL if the loop is not traced. lookup reports its
   own errors; the only exception that can come out of it is an interrupt of the application. */
Recorder *hook_recorder_of(PyObject *loop);

/* Removes a retired recorder from the cache of loops, which would keep it, and the code that it has
   met, alive. */
void hook_forget(const Recorder *recorder);

#endif
