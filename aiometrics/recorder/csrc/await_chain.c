#include "await_chain.h"

#include <string.h>

static PyGetSetDef *coro_await, *gen_await, *asyncgen_await;
#if !CHAIN_FRAME_IS_KNOWN
static PyGetSetDef *coro_code, *gen_code, *asyncgen_code;
#endif

/* The getter behind an attribute of a built-in type: what an attribute look-up would find and call. */
static int
find_getter(PyTypeObject *type, const char *name, PyGetSetDef **found)
{
    for (PyGetSetDef *entry = type->tp_getset; entry != NULL && entry->name != NULL; entry++) {
        if (strcmp(entry->name, name) == 0) {
            *found = entry;
            return 0;
        }
    }
    PyErr_Format(PyExc_ImportError, "%s has no attribute %s in this version of Python", type->tp_name, name);
    return -1;
}

int
chain_init(void)
{
#if !CHAIN_FRAME_IS_KNOWN
    if (find_getter(&PyCoro_Type, "cr_code", &coro_code) < 0 || find_getter(&PyGen_Type, "gi_code", &gen_code) < 0 ||
        find_getter(&PyAsyncGen_Type, "ag_code", &asyncgen_code) < 0) {
        return -1;
    }
#endif
    int failed = find_getter(&PyCoro_Type, "cr_await", &coro_await) < 0 || find_getter(&PyGen_Type, "gi_yieldfrom", &gen_await) < 0 ||
                 find_getter(&PyAsyncGen_Type, "ag_await", &asyncgen_await) < 0;
    return failed ? -1 : 0;
}

/* What a getter answers, borrowed from the generator, which keeps it; NULL without an exception if that is None. */
static PyObject *
ask(PyObject *generator, PyGetSetDef *coro, PyGetSetDef *gen, PyGetSetDef *asyncgen)
{
    PyGetSetDef *entry = Py_IS_TYPE(generator, &PyCoro_Type) ? coro : Py_IS_TYPE(generator, &PyGen_Type) ? gen : asyncgen;
    PyObject *answer = entry->get(generator, entry->closure);
    if (answer == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(answer);
    return answer == Py_None ? NULL : answer;
}

PyObject *
chain_ask_awaited(PyObject *generator)
{
    return ask(generator, coro_await, gen_await, asyncgen_await);
}

/* Only the first: what comes after it (the default of anext) is not awaited. */
static int
visit_hidden(PyObject *referent, void *found)
{
    *(PyObject **)found = chain_is_generator(referent) ? referent : NULL;
    return 1;
}

PyObject *
chain_hidden(PyObject *awaitable)
{
    PyObject *found = NULL;
    traverseproc traverse = Py_TYPE(awaitable)->tp_traverse;
    if (traverse != NULL) {
        (void)traverse(awaitable, visit_hidden, &found);
    }
    return found;
}

#if CHAIN_FRAME_IS_KNOWN

int
chain_lasti(PyObject *generator)
{
    return chain_is_finished(generator) ? -1 : _PyInterpreterFrame_LASTI(chain_frame(generator)) * (int)sizeof(_Py_CODEUNIT);
}

#else

PyObject *
chain_ask_code(PyObject *generator)
{
    return ask(generator, coro_code, gen_code, asyncgen_code);
}

int
chain_lasti(PyObject *generator)
{
    const char *name = Py_IS_TYPE(generator, &PyCoro_Type) ? "cr_frame" : Py_IS_TYPE(generator, &PyGen_Type) ? "gi_frame" : "ag_frame";
    PyObject *frame = PyObject_GetAttrString(generator, name);
    if (frame == NULL) {
        PyErr_Clear();
        return -1;
    }
    int lasti = PyFrame_Check(frame) ? PyFrame_GetLasti((PyFrameObject *)frame) : -1;
    Py_DECREF(frame);
    return lasti;
}

#endif
