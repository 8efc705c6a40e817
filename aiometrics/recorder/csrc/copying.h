/* Copies memory for a scrape: without the GIL, or so fast that holding it is not felt. */
#ifndef AIOMETRICS_COPYING_H
#define AIOMETRICS_COPYING_H

#include <Python.h>

/* Both take parts of a page as pairs of words. The memory of the target is provided without the
   GIL; the parts are then copied with it, so that no loop writes meanwhile. */
PyObject *copying_provide(PyObject *module, PyObject *args);
PyObject *copying_copy_parts(PyObject *module, PyObject *args);

/* Joins bytes without the GIL. */
PyObject *copying_join(PyObject *module, PyObject *items);

#endif
