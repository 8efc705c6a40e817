/* Times callbacks that are not steps of tasks, where asyncio's handles run them; see
   aiometrics/instrumentation/hooks/handles.py. */
#ifndef AIOMETRICS_HANDLE_H
#define AIOMETRICS_HANDLE_H

#include <Python.h>

/* hook_handles(Handle): learn where a handle stores its callback. */
PyObject *handle_hook(PyObject *module, PyObject *type);

/* run_handle(handle): run its callback in its context. */
PyObject *handle_run(PyObject *module, PyObject *handle);

#endif
