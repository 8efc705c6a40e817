/* What happens to an error of our own, which the application must not see: aiometrics/base/internal_errors.py. */
#ifndef AIOMETRICS_ERRORS_H
#define AIOMETRICS_ERRORS_H

#include <Python.h>

/* Takes the exception in flight, which is none any more; NULL if there was none. */
PyObject *error_taken(void);

/* Counts and logs the error, which may be NULL, as one of `probe`. */
void error_report(PyObject *internal_errors, const char *probe, PyObject *error);

/* The last thing to do with an error, which is released. If it is no Exception it came from a signal while Python ran for us and was
   meant for the application: then it is raised again, and -1. */
int error_done(PyObject *error);

#endif
