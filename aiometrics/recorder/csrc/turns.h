/* Times the turns of an event loop at its selector. The twin in Python,
   aiometrics/recorder/turns.py, is the specification. */
#ifndef AIOMETRICS_TURNS_H
#define AIOMETRICS_TURNS_H

#include <Python.h>

int turns_init_module(PyObject *module);

#endif
