/* The struct behind a generator is public up to 3.13, the place in its frame from 3.12 on. 3.11 shows the frame only in an internal
   header, which no later 3.11 will change. Versions that hide the struct are asked through the getters of their own types. */
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
#include <Python.h>
#if PY_VERSION_HEX < 0x030C0000
#define Py_BUILD_CORE 1
#include <internal/pycore_frame.h>
#undef Py_BUILD_CORE
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#include "chain.h"

#include <string.h>

#define STRUCT_IS_PUBLIC (PY_VERSION_HEX < 0x030E0000)

PyGetSetDef *chain_coro_await, *chain_gen_await, *chain_asyncgen_await;
#if !STRUCT_IS_PUBLIC
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

#if CHAIN_FRAME_MAY_BEGIN_WITH_CODE
int chain_frame_begins_with_code;

/* Looks at a generator whose code is known. */
static int
check_frame(void)
{
    PyObject *globals = PyDict_New();
    PyObject *generator = globals == NULL ? NULL : PyRun_String("(None for _ in ())", Py_eval_input, globals, globals);
    PyObject *code = generator == NULL ? NULL : chain_ask_code(generator);
    if (code != NULL) {
        chain_frame_begins_with_code = ((PyGenObject *)generator)->gi_iframe[0] == code;
    }
    Py_XDECREF(generator);
    Py_XDECREF(globals);
    return code == NULL ? -1 : 0;
}
#endif

int
chain_init(void)
{
#if !STRUCT_IS_PUBLIC
    if (find_getter(&PyCoro_Type, "cr_code", &coro_code) < 0 || find_getter(&PyGen_Type, "gi_code", &gen_code) < 0 ||
        find_getter(&PyAsyncGen_Type, "ag_code", &asyncgen_code) < 0) {
        return -1;
    }
#endif
    if (find_getter(&PyCoro_Type, "cr_await", &chain_coro_await) < 0 ||
        find_getter(&PyGen_Type, "gi_yieldfrom", &chain_gen_await) < 0 ||
        find_getter(&PyAsyncGen_Type, "ag_await", &chain_asyncgen_await) < 0) {
        return -1;
    }
#if CHAIN_FRAME_MAY_BEGIN_WITH_CODE
    return check_frame();
#else
    return 0;
#endif
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

#if STRUCT_IS_PUBLIC

/* The coroutine and asynchronous generator structs begin as this one does. */
static inline PyGenObject *
running_frame(PyObject *generator)
{
    PyGenObject *gen = (PyGenObject *)generator;
    return gen->gi_frame_state > 0 ? NULL : gen;
}

PyObject *
chain_ask_code(PyObject *generator)
{
#if PY_VERSION_HEX < 0x030C0000
    return (PyObject *)((PyGenObject *)generator)->gi_code;
#else
    PyGenObject *gen = running_frame(generator);
    if (gen == NULL) {
        return NULL;
    }
    PyObject *code = PyUnstable_InterpreterFrame_GetCode((struct _PyInterpreterFrame *)gen->gi_iframe);
    Py_DECREF(code); /* the frame keeps it */
    return code;
#endif
}

int
chain_generator_lasti(PyObject *generator)
{
    PyGenObject *gen = running_frame(generator);
    if (gen == NULL) {
        return -1;
    }
#if PY_VERSION_HEX < 0x030C0000
    return _PyInterpreterFrame_LASTI((_PyInterpreterFrame *)gen->gi_iframe);
#else
    return PyUnstable_InterpreterFrame_GetLasti((struct _PyInterpreterFrame *)gen->gi_iframe);
#endif
}

#else

PyObject *
chain_ask_code(PyObject *generator)
{
    PyGetSetDef *getter = Py_IS_TYPE(generator, &PyCoro_Type) ? coro_code : Py_IS_TYPE(generator, &PyGen_Type) ? gen_code : asyncgen_code;
    PyObject *code = getter->get(generator, getter->closure);
    if (code == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(code); /* the generator keeps it */
    return code;
}

int
chain_generator_lasti(PyObject *generator)
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
