/* The await chain, hop by hop, without an attribute look-up where the interpreter allows. */
#ifndef AIOMETRICS_CHAIN_H
#define AIOMETRICS_CHAIN_H

#include "frame.h"
#include "seldom.h"

/* Whether it is of one of the three built-in types that run Python code. */
static inline int
chain_is_generator(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return LIKELY(type == &PyCoro_Type) || type == &PyGen_Type || type == &PyAsyncGen_Type;
}

/* The generator that an opaque built-in awaitable drives, borrowed from it; NULL without an exception if that is not what it drives. */
PyObject *chain_hidden(PyObject *awaitable);

#endif
