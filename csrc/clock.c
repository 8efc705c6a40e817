#include "clock.h"

PyObject *system_clock;

int
clock_init(void)
{
    PyObject *module = PyImport_ImportModule("aiometrics.clock");
    system_clock = module == NULL ? NULL : PyObject_GetAttrString(module, "monotonic");
    Py_XDECREF(module);
    return system_clock == NULL ? -1 : 0;
}

PyObject *
clock_kept(PyObject *given)
{
#ifdef CLOCK_SYSTEM
    return given == NULL || given == system_clock ? NULL : Py_NewRef(given);
#else
    return Py_NewRef(given == NULL ? system_clock : given);
#endif
}

int
clock_ask(PyObject *given, int64_t *now)
{
    PyObject *reading = PyObject_CallNoArgs(given);
    if (reading == NULL) {
        return -1;
    }
    *now = PyLong_AsLongLong(reading);
    Py_DECREF(reading);
    return *now == -1 && PyErr_Occurred() ? -1 : 0;
}
