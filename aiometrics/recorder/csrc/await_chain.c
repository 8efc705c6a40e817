#include "await_chain.h"

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
