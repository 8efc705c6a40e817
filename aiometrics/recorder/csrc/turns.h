/* Turns of an event loop, by timing its selector; aiometrics/recorder/turns.py is the same in Python and the specification of it. */
#ifndef AIOMETRICS_TURNS_H
#define AIOMETRICS_TURNS_H

#include <Python.h>

int turns_init_module(PyObject *module);

#endif
