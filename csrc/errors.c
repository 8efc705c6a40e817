#include "errors.h"

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
error_report(PyObject *faults, const char *probe, PyObject *error)
{
    PyObject *reported = PyObject_CallMethod(faults, "report", "sO", probe, error == NULL ? Py_None : error);
    if (reported == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(reported);
}

static int
raise_again(void *error)
{
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return -1;
}

void
error_done(PyObject *error)
{
    if (error != NULL && !PyErr_GivenExceptionMatches(error, PyExc_Exception) && Py_AddPendingCall(raise_again, Py_NewRef(error)) < 0) {
        Py_DECREF(error);
    }
    Py_XDECREF(error);
}
