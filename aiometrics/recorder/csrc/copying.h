/* Copies memory, and reads files, for a scrape: without the GIL, or so fast that holding it is not felt. */
#ifndef AIOMETRICS_COPYING_H
#define AIOMETRICS_COPYING_H

#include <Python.h>

/* All take parts of a page as pairs of words. The memory of the target is provided without the GIL.
   The parts are then copied without it, if no loop writes meanwhile; else with it, so that none can. */
PyObject *copying_provide(PyObject *module, PyObject *args);
PyObject *copying_copy_unheld(PyObject *module, PyObject *args);
PyObject *copying_copy_parts(PyObject *module, PyObject *args);

/* Gives memory back to the system, without the GIL: what was in it is gone. Only a mapping has memory
   of its own. */
void copying_release(const Py_buffer *buffer);

/* Returns the start of a small file, which is read without the GIL. */
PyObject *copying_read_file(PyObject *module, PyObject *path);

/* Joins bytes without the GIL. */
PyObject *copying_join(PyObject *module, PyObject *items);

#endif
