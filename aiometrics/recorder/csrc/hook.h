/* Where the construction of a task is intercepted in C: the tp_init slot of _asyncio.Task, which every task of that type goes through,
   whoever constructs it, and the slot wrapper Task.__init__, which subclasses call. Task.get_coro goes on to tell the truth. */
#ifndef AIOMETRICS_HOOK_H
#define AIOMETRICS_HOOK_H

#include "recorder.h"

/* hook(task_type, lookup): from now on lookup(loop) names the Recorder, or None, for each new task's loop. */
PyObject *hook_install(PyObject *module, PyObject *args);
/* unhook(): everything as it was. */
PyObject *hook_remove(PyObject *module, PyObject *ignored);

/* The recorder of a loop: a new reference, or NULL if the loop is not traced. lookup reports its own errors; the only exception that can
   come out of it is an interrupt of the application. */
Recorder *hook_recorder_of(PyObject *loop);

/* The recorder is retired: nothing is kept of it, nor of the code that it has met. */
void hook_forget(const Recorder *recorder);

#endif
