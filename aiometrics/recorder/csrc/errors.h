/* Handles internal errors, which the application must not see: see
   aiometrics/base/internal_errors.py. */
#ifndef AIOMETRICS_ERRORS_H
#define AIOMETRICS_ERRORS_H

#include <Python.h>

/* Takes and clears the exception that is set; NULL if there is none. */
PyObject *error_taken(void);

/* Counts and logs the error, which may be NULL, as one of `probe`. */
void error_report(PyObject *internal_errors, const char *probe, PyObject *error);

/* Releases an error. If it is an interrupt, it came while Python ran for us and was meant for the
   application: then it is raised again, and the result is -1. */
int error_done(PyObject *error);

/* Calls Python code of ours, which a profiler or debugger of the application does not see. */
PyObject *call_unseen(PyObject *function, PyObject *args);

/* Calls a method unseen, with a tuple of arguments built by `format`. If a handler of a signal raises
   meanwhile, the method is called again, and the exception comes out where it would have without
   us: at the next instruction in Python of the main thread that is not ours. */
PyObject *call_uninterrupted(PyObject *object, const char *method, const char *format, ...);

/* Whether a handler of a signal raised the exception that is set, which then comes out likewise. */
int error_deferred(void);

/* Clears the exception that is set, if any; one that a handler of a signal raised comes out likewise. */
void error_clear(void);

/* Whether the exception that is set, which is cleared then, says that the application has used up its stack or its memory. */
int error_of_shortage(void);

/* deferring(function): a function that calls it, where the interpreter would drop what it raises,
   and print it, even if the application has used up its stack. */
PyObject *errors_deferring(PyObject *module, PyObject *function);

/* telling(tell, function): replaces the function by which a run of a loop begins and ends. It calls
   `tell` first and the function last. What a handler of a signal raises in `tell` comes out once the run
   has begun, or is over. */
PyObject *errors_telling(PyObject *module, PyObject *functions);

int errors_init(void);

#endif
