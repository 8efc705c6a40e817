#include "errors.h"

#include "constants.h"

PyObject *
error_taken(void)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (error != NULL && traceback != NULL) {
        (void)PyException_SetTraceback(error, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
}

void
error_report(PyObject *internal_errors, const char *probe, PyObject *error)
{
    PyObject *subject = error == NULL ? Py_None : error;
    PyObject *reported = PyObject_CallMethod(internal_errors, "report", "sOs", probe, subject, OFF_FOR_LOOP);
    if (reported == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(reported);
}

int
error_done(PyObject *error)
{
    int interrupt = error != NULL && !PyErr_GivenExceptionMatches(error, PyExc_Exception);
    if (interrupt) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    return interrupt ? -1 : 0;
}
