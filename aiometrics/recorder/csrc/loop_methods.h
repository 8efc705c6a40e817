/* Replaces run_forever and close of uvloop's class, in C, so that no frame of ours is in any
   traceback. uvloop tells nobody else when a loop runs: it keeps asyncio's function for that from
   when it was imported. */
#ifndef AIOMETRICS_LOOP_METHODS_H
#define AIOMETRICS_LOOP_METHODS_H

#include <Python.h>

PyObject *loop_methods_hook(PyObject *module, PyObject *args);
PyObject *loop_methods_unhook(PyObject *module, PyObject *ignored);

#endif
