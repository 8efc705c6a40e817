/* Callbacks that are no steps of tasks, timed where asyncio's handles run them; see aiometrics/handles.py. */
#ifndef AIOMETRICS_HANDLE_H
#define AIOMETRICS_HANDLE_H

#include <Python.h>

/* handle_run(Handle, original, failed): what stands in place of Handle._run. */
PyObject *handle_make_run(PyObject *module, PyObject *arguments);

/* reraise(error, ...): raises it again, with its traceback as it is. */
PyObject *handle_reraise(PyObject *module, PyObject *arguments);

#endif
