/* The await chain, hop by hop, without a frame object or an attribute look-up where the interpreter allows. */
#ifndef AIOMETRICS_CHAIN_H
#define AIOMETRICS_CHAIN_H

#include <Python.h>

/* How the chain goes on from an object that is no generator, by its type: aiometrics.chain.hop. */
typedef enum { CHAIN_ENDS, CHAIN_HIDES, CHAIN_ASKS } Hop;

int chain_init(void);

/* Whether it is one of the three built-in types that run Python code. */
static inline int
chain_is_generator(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == &PyCoro_Type || type == &PyGen_Type || type == &PyAsyncGen_Type;
}

/* What a suspended generator awaits: a new reference, Py_None at the end, NULL with an exception. */
PyObject *chain_generator_awaits(PyObject *generator);

/* The generator that an opaque built-in awaitable drives: a new reference, or NULL without an exception if that is not what it drives. */
PyObject *chain_hidden(PyObject *awaitable);

/* The code of a generator, borrowed from it; NULL without an exception if it is finished. */
PyObject *chain_generator_code(PyObject *generator);

/* The offset of the instruction that a suspended generator stands at; -1 if it is finished. */
int chain_generator_lasti(PyObject *generator);

#endif
