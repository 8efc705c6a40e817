/* Handles internal errors, which the application must not see: see
   aiometrics/base/internal_errors.py. */
#ifndef AIOMETRICS_ERRORS_H
#define AIOMETRICS_ERRORS_H

#include <Python.h>

/* Takes and clears the exception that is set; NULL if there is none. */
PyObject *error_taken(void);

/* Counts and logs the error, which may be NULL, as one of `probe`. */
void error_report(PyObject *internal_errors, const char *probe, PyObject *error);

/* Releases an error. If it is not an Exception, it came from a signal while Python ran for us and
   was meant for the application: then it is raised again, and the result is -1. */
int error_done(PyObject *error);

#endif
