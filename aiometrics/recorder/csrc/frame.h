/* Reads the frame of a generator: its code, what it awaits, and the instruction it is at.

   Where the interpreter's own layout of frames is known, they are read in place, without a frame
   object or an attribute look-up; elsewhere the getters of the generators' types are asked. The
   layout is declared in internal headers, and a patch release may change it, so frame_init()
   compares once what is read with what the getters answer. */
#ifndef AIOMETRICS_FRAME_H
#define AIOMETRICS_FRAME_H

#define FRAME_IS_KNOWN (PY_VERSION_HEX < 0x03100000)

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
#include <Python.h>
#if FRAME_IS_KNOWN
#define Py_BUILD_CORE 1
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe_structs.h>
#endif
#undef Py_BUILD_CORE
#include <opcode.h>
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/* Finds the getters and, with `samples` of generators in every state, whether to read frames. */
int frame_init(PyObject *samples);

PyObject *frame_ask_code(PyObject *generator);
PyObject *frame_ask_awaited(PyObject *generator);

/* Whether frames are read, as frame_init() found. */
#if FRAME_IS_KNOWN
extern int frame_is_read;
#else
#define frame_is_read 0
#define frame_read_code frame_ask_code
#define frame_read_position(generator) ((uintptr_t)0)
#define frame_read_awaited frame_ask_awaited
#define frame_is_finished(generator) 1
#endif

#if FRAME_IS_KNOWN

#ifndef FRAME_STATE_FINISHED
#define FRAME_STATE_FINISHED(state) ((state) >= FRAME_COMPLETED)
#endif

/* The coroutine and asynchronous generator structs begin as that of generators does. */
static inline _PyInterpreterFrame *
frame_of(PyObject *generator)
{
    return (_PyInterpreterFrame *)&((PyGenObject *)generator)->gi_iframe;
}

static inline int
frame_is_finished(PyObject *generator)
{
    return FRAME_STATE_FINISHED(((PyGenObject *)generator)->gi_frame_state);
}

#if PY_VERSION_HEX < 0x030D0000
#define frame_instruction(frame) ((frame)->prev_instr)
#else
#define frame_instruction(frame) ((frame)->instr_ptr)
#endif

#if PY_VERSION_HEX < 0x030E0000
#define frame_object(reference) ((PyObject *)(reference))
#define frame_values(frame) ((Py_ssize_t)(frame)->stacktop)
#else
/* The lowest bit of a reference says whether it is counted. */
#define frame_object(reference) ((PyObject *)((reference).bits & ~(uintptr_t)1))
#define frame_values(frame) ((frame)->stackpointer - (frame)->localsplus)
#endif

static inline PyObject *
frame_read_code(PyObject *generator)
{
    if (frame_is_finished(generator)) {
        return NULL;
    }
#if PY_VERSION_HEX < 0x030D0000
    return frame_object(frame_of(generator)->f_code);
#else
    return frame_object(frame_of(generator)->f_executable);
#endif
}

/* Where a generator that is not finished is: an address within its code, or right before it. */
static inline uintptr_t
frame_read_position(PyObject *generator)
{
    return (uintptr_t)frame_instruction(frame_of(generator));
}

/* How far below the end of its stack a suspended frame keeps what it awaits. */
#define FRAME_AWAITED (PY_VERSION_HEX < 0x030F0000 ? 1 : 2)

static inline PyObject *
frame_read_awaited(PyObject *generator)
{
    int state = ((PyGenObject *)generator)->gi_frame_state;
    _PyInterpreterFrame *frame = frame_of(generator);
#if PY_VERSION_HEX < 0x030D0000
    if (state != FRAME_SUSPENDED) {
        return NULL;
    }
    _Py_CODEUNIT next = frame_instruction(frame)[1];
    if (_Py_OPCODE(next) != RESUME) {
        return frame_ask_awaited(generator); /* monitored, which puts another instruction there */
    }
    int awaits = _Py_OPARG(next) >= 2;
#else
    int awaits = state == FRAME_SUSPENDED_YIELD_FROM;
#endif
    return awaits ? frame_object(frame->localsplus[frame_values(frame) - FRAME_AWAITED]) : NULL;
}

#endif

/* The code of a generator, borrowed from it; NULL without an exception if there is none. Here and
   below `read` is frame_is_read. */
static inline PyObject *
frame_code(PyObject *generator, int read)
{
    return read ? frame_read_code(generator) : frame_ask_code(generator);
}

/* What a generator awaits, borrowed from its frame; NULL without an exception if nothing. */
static inline PyObject *
frame_awaited(PyObject *generator, int read)
{
    return read ? frame_read_awaited(generator) : frame_ask_awaited(generator);
}

/* The offset of the instruction that a suspended generator is at; -1 if it is finished. */
int frame_lasti(PyObject *generator);

#endif
