/* The frames that a thread is executing. */
#ifndef AIOMETRICS_STACK_H
#define AIOMETRICS_STACK_H

#include <Python.h>

/* Returns the innermost frame of a thread, a new reference; NULL without an exception if it has
   none. All frames outside of it have objects, so that to follow them makes none, and collects no
   garbage. */
PyFrameObject *stack_innermost(unsigned long ident);

PyObject *stack_of_thread(PyObject *module, PyObject *ident);

#endif
