/* Keeps a process alive when the file of a page that it has mapped is cut off. */
#ifndef AIOMETRICS_GUARD_H
#define AIOMETRICS_GUARD_H

#include <Python.h>

/* guard(memory) -> address: from now on memory that is lost is replaced by zeros. */
PyObject *guard_add(PyObject *module, PyObject *memory);

/* unguard(address): the memory is about to be unmapped, or is already. */
PyObject *guard_remove(PyObject *module, PyObject *address);

/* renew_guard(): stay in force although the program has installed a handler of its own. */
PyObject *guard_renew(PyObject *module, PyObject *ignored);

#endif
