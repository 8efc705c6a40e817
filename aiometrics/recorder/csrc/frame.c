#include "await_chain.h"

#include <stddef.h>
#include <string.h>

static PyGetSetDef *coro_await, *gen_await, *asyncgen_await;
#if PY_VERSION_HEX >= 0x030C0000
static PyGetSetDef *coro_code, *gen_code, *asyncgen_code;
#endif

/* The getter behind an attribute of a built-in type: what a look-up would find and call. */
static int
find_getter(PyTypeObject *type, const char *name, PyGetSetDef **found)
{
    for (PyGetSetDef *entry = type->tp_getset; entry != NULL && entry->name != NULL; entry++) {
        if (strcmp(entry->name, name) == 0) {
            *found = entry;
            return 0;
        }
    }
    PyErr_Format(PyExc_ImportError, "%s has no %s in this version of Python", type->tp_name, name);
    return -1;
}

static int
find_getters(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (find_getter(&PyCoro_Type, "cr_code", &coro_code) < 0 ||
        find_getter(&PyGen_Type, "gi_code", &gen_code) < 0 ||
        find_getter(&PyAsyncGen_Type, "ag_code", &asyncgen_code) < 0) {
        return -1;
    }
#endif
    int failed = find_getter(&PyCoro_Type, "cr_await", &coro_await) < 0 ||
                 find_getter(&PyGen_Type, "gi_yieldfrom", &gen_await) < 0 ||
                 find_getter(&PyAsyncGen_Type, "ag_await", &asyncgen_await) < 0;
    return failed ? -1 : 0;
}

#define OF_TYPE(generator, coro, gen, asyncgen)         \
    (Py_IS_TYPE(generator, &PyCoro_Type)  ? (coro)      \
     : Py_IS_TYPE(generator, &PyGen_Type) ? (gen)       \
                                          : (asyncgen))

/* What a getter answers, borrowed from the generator, which keeps it; NULL for None. */
static PyObject *
ask(PyObject *generator, PyGetSetDef *entry)
{
    PyObject *answer = entry->get(generator, entry->closure);
    if (answer == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(answer);
    return answer == Py_None ? NULL : answer;
}

PyObject *
frame_ask_awaited(PyObject *generator)
{
    return ask(generator, OF_TYPE(generator, coro_await, gen_await, asyncgen_await));
}

PyObject *
frame_ask_code(PyObject *generator)
{
#if PY_VERSION_HEX >= 0x030C0000
    return ask(generator, OF_TYPE(generator, coro_code, gen_code, asyncgen_code));
#else
    return (PyObject *)((PyGenObject *)generator)->gi_code;
#endif
}

static int
ask_lasti(PyObject *generator)
{
    const char *name = OF_TYPE(generator, "cr_frame", "gi_frame", "ag_frame");
    PyObject *frame = PyObject_GetAttrString(generator, name);
    if (frame == NULL) {
        PyErr_Clear();
        return -1;
    }
    int lasti = PyFrame_Check(frame) ? PyFrame_GetLasti((PyFrameObject *)frame) : -1;
    Py_DECREF(frame);
    return lasti;
}

#if FRAME_IS_KNOWN

int frame_is_read;

static int
read_lasti(PyObject *generator)
{
    PyCodeObject *code = (PyCodeObject *)frame_read_code(generator);
    if (code == NULL) {
        return -1;
    }
    return (int)((char *)frame_instruction(frame_of(generator)) - code->co_code_adaptive);
}

/* Whether the frame says what the getters say. No pointer is followed before it was checked. */
static int
agrees(PyObject *generator)
{
    size_t size = offsetof(PyGenObject, gi_iframe) + offsetof(_PyInterpreterFrame, localsplus);
    if ((size_t)Py_TYPE(generator)->tp_basicsize != size) {
        return 0;
    }
    int lasti = ask_lasti(generator);
    if (lasti < 0 || frame_is_finished(generator)) {
        return lasti < 0 && frame_is_finished(generator);
    }
    PyCodeObject *code = (PyCodeObject *)frame_ask_code(generator);
    if (frame_read_code(generator) != (PyObject *)code || read_lasti(generator) != lasti) {
        return 0;
    }
    Py_ssize_t depth = frame_values(frame_of(generator)) - code->co_nlocalsplus;
    return depth >= 0 && depth <= code->co_stacksize &&
           frame_read_awaited(generator) == frame_ask_awaited(generator);
}

/* Whether all samples agree; not if there are none, or if getting them raises an exception. */
static int
all_agree(PyObject *samples)
{
    PyObject *iterator = PyObject_GetIter(samples), *sample;
    int compared = 0, agreed = 0;
    while (iterator != NULL && (sample = PyIter_Next(iterator)) != NULL) {
        compared++;
        agreed += chain_is_generator(sample) && agrees(sample);
        Py_DECREF(sample);
    }
    Py_XDECREF(iterator);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return compared > 0 && agreed == compared;
}

#else
#define read_lasti ask_lasti
#endif

int
frame_lasti(PyObject *generator)
{
    return frame_is_read ? read_lasti(generator) : ask_lasti(generator);
}

int
frame_init(PyObject *samples)
{
    if (find_getters() < 0) {
        return -1;
    }
#if FRAME_IS_KNOWN
    frame_is_read = all_agree(samples);
#endif
    return 0;
}
