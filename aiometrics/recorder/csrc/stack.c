/* Reads the frames of one thread: the twin of aiometrics/recorder/stack.py.

   sys._current_frames() walks the threads of all interpreters, whose thread states are freed without
   our GIL. Here only those of our own interpreter are looked at. */
#include "stack.h"

#include "constants.h"

/* Returns the innermost frame of a thread; NULL without an exception if it has none. */
static PyFrameObject *
innermost(unsigned long ident)
{
    PyFrameObject *frame = NULL;
    PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (thread != NULL && frame == NULL) {
        if (thread->thread_id == ident) {
            frame = PyThreadState_GetFrame(thread);
        }
        thread = PyThreadState_Next(thread);
    }
    return frame;
}

/* Appends the code, the line and the globals of a frame. */
static int
append(PyObject *stack, PyFrameObject *frame)
{
    PyObject *code = (PyObject *)PyFrame_GetCode(frame), *globals = PyFrame_GetGlobals(frame);
    int line = PyFrame_GetLineNumber(frame);
    PyObject *known = line > 0 ? PyLong_FromLong(line) : Py_NewRef(Py_None);
    PyObject *entry = known == NULL ? NULL : PyTuple_Pack(3, code, known, globals);
    int result = entry == NULL ? -1 : PyList_Append(stack, entry);
    Py_XDECREF(entry);
    Py_XDECREF(known);
    Py_DECREF(globals);
    Py_DECREF(code);
    return result;
}

static PyObject *
read_stack(unsigned long ident)
{
    PyObject *stack = PyList_New(0);
    PyFrameObject *frame = stack == NULL ? NULL : innermost(ident);
    for (int count = 0; stack != NULL && frame != NULL && count <= MAX_FRAMES; count++) {
        if (append(stack, frame) < 0) {
            Py_CLEAR(stack);
        }
        PyFrameObject *outer = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = outer;
    }
    Py_XDECREF(frame);
    return stack;
}

PyFrameObject *
stack_innermost(unsigned long ident)
{
    int collects = PyGC_Disable();
    PyFrameObject *found = innermost(ident), *frame = (PyFrameObject *)Py_XNewRef((PyObject *)found);
    for (int count = 0; frame != NULL && count <= MAX_FRAMES; count++) {
        Py_SETREF(frame, PyFrame_GetBack(frame));
    }
    Py_XDECREF(frame);
    if (collects) {
        (void)PyGC_Enable();
    }
    return found;
}

PyObject *
stack_of_thread(PyObject *Py_UNUSED(module), PyObject *number)
{
    unsigned long ident = PyLong_AsUnsignedLong(number);
    if (ident == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    /* Up to Python 3.11 any allocation could collect garbage, and a finalizer let the thread go on. */
    int collects = PyGC_Disable();
    PyObject *stack = read_stack(ident);
    if (collects) {
        (void)PyGC_Enable();
    }
    return stack;
}
