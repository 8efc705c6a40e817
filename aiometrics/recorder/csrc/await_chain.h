/* The await chain, hop by hop, without a frame object or an attribute look-up where the interpreter allows.

   The struct behind a generator is public up to 3.13; its frame stands in an internal header, which no later release of 3.11 to 3.13 will
   change. Versions after these are asked through the getters of their own types. */
#ifndef AIOMETRICS_CHAIN_H
#define AIOMETRICS_CHAIN_H

#define CHAIN_FRAME_IS_KNOWN (PY_VERSION_HEX < 0x030E0000)

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
#include <Python.h>
#if CHAIN_FRAME_IS_KNOWN
#define Py_BUILD_CORE 1
#include <internal/pycore_frame.h>
#undef Py_BUILD_CORE
#include <opcode.h>
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

int chain_init(void);

/* Whether it is of one of the three built-in types that run Python code. */
static inline int
chain_is_generator(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == &PyCoro_Type || type == &PyGen_Type || type == &PyAsyncGen_Type;
}

/* The generator that an opaque built-in awaitable drives, borrowed from it; NULL without an exception if that is not what it drives. */
PyObject *chain_hidden(PyObject *awaitable);

/* By asking for it what chain_awaited tells, and chain_code. */
PyObject *chain_ask_awaited(PyObject *generator);
#if !CHAIN_FRAME_IS_KNOWN
PyObject *chain_ask_code(PyObject *generator);
#endif

/* The offset of the instruction that a suspended generator stands at; -1 if it is finished. */
int chain_lasti(PyObject *generator);

#if CHAIN_FRAME_IS_KNOWN
/* The coroutine and asynchronous generator structs begin as that of generators does. */
static inline int
chain_is_finished(PyObject *generator)
{
    return ((PyGenObject *)generator)->gi_frame_state > 0;
}

static inline _PyInterpreterFrame *
chain_frame(PyObject *generator)
{
    return (_PyInterpreterFrame *)((PyGenObject *)generator)->gi_iframe;
}
#endif

/* The code of a generator, borrowed from it; NULL without an exception if it is finished. */
static inline PyObject *
chain_code(PyObject *generator)
{
#if PY_VERSION_HEX < 0x030C0000
    return (PyObject *)((PyGenObject *)generator)->gi_code;
#elif PY_VERSION_HEX < 0x030D0000
    return chain_is_finished(generator) ? NULL : (PyObject *)chain_frame(generator)->f_code;
#elif CHAIN_FRAME_IS_KNOWN
    return chain_is_finished(generator) ? NULL : chain_frame(generator)->f_executable;
#else
    return chain_ask_code(generator);
#endif
}

/* What a generator awaits, borrowed from its frame; NULL without an exception if that is nothing. */
static inline PyObject *
chain_awaited(PyObject *generator)
{
#if !CHAIN_FRAME_IS_KNOWN || PY_VERSION_HEX < 0x030C0000
    return chain_ask_awaited(generator);
#else
    PyFrameState state = (PyFrameState)((PyGenObject *)generator)->gi_frame_state;
    _PyInterpreterFrame *frame = chain_frame(generator);
#if PY_VERSION_HEX < 0x030D0000
    /* Where the interpreter is monitored the instruction is another one. */
    int known = state == FRAME_SUSPENDED && frame->prev_instr[1].op.code == RESUME && frame->prev_instr[1].op.arg >= 2;
    return known ? _PyFrame_StackPeek(frame) : chain_ask_awaited(generator);
#else
    return state == FRAME_SUSPENDED_YIELD_FROM ? _PyFrame_StackPeek(frame) : NULL;
#endif
#endif
}

#endif
