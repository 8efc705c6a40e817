#include "errors.h"

#include "constants.h"

/* More attempts than a collection gives, unless its end was not told. */
#define MOST_ATTEMPTS (1 << 20)

static PyObject *errors_module; /* aiometrics.base.internal_errors */
static unsigned long collecting; /* the thread that collects garbage, in between the calls of our callback; else 0 */
static int attempts;
static PyFrameObject *sheltered; /* a frame that begins or ends a run of a loop, where asyncio is not prepared for exceptions; else NULL */
static int ends_run;

int
errors_init(void)
{
    errors_module = PyImport_ImportModule("aiometrics.base.internal_errors");
    return errors_module == NULL ? -1 : 0;
}

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
    PyObject *raised = reported == NULL ? error_taken() : NULL;
    Py_XDECREF(reported);
    if (raised != NULL && raised != error) { /* else it is the application's, to whom our caller gives it */
        PyErr_SetObject((PyObject *)Py_TYPE(raised), raised);
        error_clear();
    }
    Py_XDECREF(raised);
}

int
error_of_shortage(void)
{
    if (!PyErr_ExceptionMatches(PyExc_RecursionError) && !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return 0;
    }
    PyErr_Clear();
    return 1;
}

static int defer(PyObject *interrupt);

/* Whether a function of aiometrics.base.internal_errors is true of the error. Only a handler of a
   signal can raise meanwhile. */
static int
answers(PyObject *error, const char *function)
{
    PyObject *answer = PyObject_CallMethod(errors_module, function, "O", error);
    int truth = answer == Py_True;
    if (answer == NULL && !error_of_shortage() && defer(error_taken()) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(answer);
    return truth;
}

int
error_done(PyObject *error)
{
    int interrupt = error != NULL && answers(error, "is_interrupt");
    if (interrupt) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    return interrupt ? -1 : 0;
}

/* Whether the sheltered frame executes, or at the end of a run, whether it is not left yet. */
static int
is_sheltered(void)
{
    PyFrameObject *frame = sheltered == NULL ? NULL : (PyFrameObject *)Py_XNewRef(PyEval_GetFrame());
    while (ends_run && frame != NULL && frame != sheltered) {
        PyFrameObject *caller = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = caller;
    }
    int found = frame != NULL && frame == sheltered;
    Py_XDECREF(frame);
    return found;
}

/* The interpreter drops what is raised in finalizers, which are all that runs until a collection ends. */
static int
raise_deferred(void *error)
{
    int unsafe = collecting == PyThread_get_thread_ident() || is_sheltered();
    if (unsafe && attempts++ < MOST_ATTEMPTS && Py_AddPendingCall(raise_deferred, error) == 0) {
        return 0;
    }
    attempts = 0;
    Py_CLEAR(sheltered);
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), (PyObject *)error);
    Py_DECREF((PyObject *)error);
    return -1;
}

/* Takes the exception that is set if a handler of a signal raised it; else NULL, and it stays. */
static PyObject *
signal_taken(void)
{
    PyObject *error = error_taken();
    if (error != NULL && answers(error, "from_signal")) {
        return error;
    }
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

/* Has the exception raised at the next instruction in Python of the main thread that is no part of
   a collection. -1 with the exception if that is not possible. */
static int
defer(PyObject *interrupt)
{
    return Py_AddPendingCall(raise_deferred, interrupt) < 0 ? raise_deferred(interrupt) : 0;
}

int
error_deferred(void)
{
    PyObject *interrupt = signal_taken();
    return interrupt != NULL && defer(interrupt) == 0;
}

void
error_clear(void)
{
    if (PyErr_Occurred() && !error_deferred()) {
        PyErr_Clear();
    }
}

PyObject *
call_unseen(PyObject *function, PyObject *args)
{
    PyThreadState *thread = PyThreadState_Get();
    PyThreadState_EnterTracing(thread);
    PyObject *result = PyObject_Call(function, args, NULL);
    PyThreadState_LeaveTracing(thread);
    return result;
}

/* The collector calls its callbacks with the phase, as nobody else calls. */
static void
note_collection(PyObject *args)
{
    PyObject *phase = PyTuple_GET_SIZE(args) == 2 ? PyTuple_GET_ITEM(args, 0) : Py_None;
    if (PyUnicode_Check(phase)) {
        collecting = PyUnicode_CompareWithASCIIString(phase, "start") == 0 ? PyThread_get_thread_ident() : 0;
    }
}

static PyObject *
call_deferring(PyObject *function, PyObject *args)
{
    note_collection(args);
    PyObject *result = call_unseen(function, args);
    return result == NULL && (error_deferred() || error_of_shortage()) ? Py_NewRef(Py_None) : result;
}

PyObject *
errors_deferring(PyObject *Py_UNUSED(module), PyObject *function)
{
    static PyMethodDef deferring = {"deferring", call_deferring, METH_VARARGS, NULL};
    return PyCFunction_New(&deferring, function);
}

static void
shelter_caller(PyObject *args)
{
    ends_run = PyTuple_GET_SIZE(args) == 1 && PyTuple_GET_ITEM(args, 0) == Py_None;
    Py_XSETREF(sheltered, (PyFrameObject *)Py_XNewRef(PyEval_GetFrame()));
}

/* What a handler of a signal raises meanwhile is deferred, and whoever has to be told is told again. */
static PyObject *
call_told(PyObject *functions, PyObject *args)
{
    PyObject *tell = PyTuple_GET_ITEM(functions, 0), *function = PyTuple_GET_ITEM(functions, 1);
    PyObject *told = call_unseen(tell, args);
    PyObject *interrupt = told == NULL ? signal_taken() : NULL;
    if (interrupt != NULL) {
        shelter_caller(args);
        told = call_unseen(tell, args);
    }
    error_clear();
    Py_XDECREF(told);
    PyObject *result = PyObject_CallObject(function, args);
    if (interrupt != NULL && defer(interrupt) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

PyObject *
errors_telling(PyObject *Py_UNUSED(module), PyObject *functions)
{
    static PyMethodDef telling = {"_set_running_loop", call_told, METH_VARARGS, NULL};
    PyObject *tell, *function;
    return PyArg_UnpackTuple(functions, "telling", 2, 2, &tell, &function) ? PyCFunction_New(&telling, functions) : NULL;
}

PyObject *
call_uninterrupted(PyObject *object, const char *name, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    PyObject *args = Py_VaBuildValue(format, values);
    va_end(values);
    PyObject *method = args == NULL ? NULL : PyObject_GetAttrString(object, name);
    PyObject *result = method == NULL ? NULL : call_unseen(method, args);
    PyObject *interrupt = result == NULL ? signal_taken() : NULL;
    if (interrupt != NULL) {
        result = call_unseen(method, args);
        if (defer(interrupt) < 0) {
            Py_CLEAR(result);
        }
    }
    Py_XDECREF(method);
    Py_XDECREF(args);
    return result;
}
