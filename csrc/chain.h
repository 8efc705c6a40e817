/* The await chain, hop by hop, without a frame object or an attribute look-up where the interpreter allows. */
#ifndef AIOMETRICS_CHAIN_H
#define AIOMETRICS_CHAIN_H

#include <Python.h>

/* How the chain goes on from an object that is no generator, by its type: aiometrics.chain.hop. */
typedef enum { CHAIN_ENDS, CHAIN_HIDES, CHAIN_ASKS, CHAIN_ASKS_BEHIND } Hop;

int chain_init(void);

extern PyGetSetDef *chain_coro_await, *chain_gen_await, *chain_asyncgen_await;

/* What tells what an object of one of the three built-in types that run Python code awaits; NULL for all others. */
static inline PyGetSetDef *
chain_awaits(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == &PyCoro_Type       ? chain_coro_await
           : type == &PyGen_Type      ? chain_gen_await
           : type == &PyAsyncGen_Type ? chain_asyncgen_await
                                      : NULL;
}

static inline int
chain_is_generator(PyObject *object)
{
    return chain_awaits(object) != NULL;
}

/* The generator that an opaque built-in awaitable drives, borrowed from it; NULL without an exception if that is not what it drives. */
PyObject *chain_hidden(PyObject *awaitable);

/* The code of a generator by asking for it, borrowed from the generator; NULL without an exception if it is finished. */
PyObject *chain_ask_code(PyObject *generator);

/* The offset of the instruction that a suspended generator stands at; -1 if it is finished. */
int chain_generator_lasti(PyObject *generator);

/* Where the struct behind a generator is public and its frame begins with its code, which chain_init checks once, that is one load. */
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000
#define CHAIN_FRAME_MAY_BEGIN_WITH_CODE 1
extern int chain_frame_begins_with_code;
#else
#define CHAIN_FRAME_MAY_BEGIN_WITH_CODE 0
#endif

/* The code of a generator, borrowed from it; NULL without an exception if it is finished. */
static inline PyObject *
chain_generator_code(PyObject *generator)
{
#if PY_VERSION_HEX < 0x030C0000
    return (PyObject *)((PyGenObject *)generator)->gi_code;
#else
#if CHAIN_FRAME_MAY_BEGIN_WITH_CODE
    PyGenObject *gen = (PyGenObject *)generator; /* coroutines and asynchronous generators begin alike */
    if (chain_frame_begins_with_code && gen->gi_frame_state <= 0) {
        return gen->gi_iframe[0];
    }
#endif
    return chain_ask_code(generator);
#endif
}

#endif
