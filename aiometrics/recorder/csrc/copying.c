#include "copying.h"

#include "handover.h"

#include <stdint.h>
#include <string.h>

#define WORD_BYTES ((Py_ssize_t)sizeof(int64_t))
#define MOST_PARTS 16
#define SMALLEST_MEMORY_PAGE 4096

typedef struct {
    Py_ssize_t start, length; /* in bytes */
} Span;

/* Reads parts of a page, pairs of words. Returns their number; -1 with an exception if one of them
   is not within `limit` bytes. */
static int
read_spans(PyObject *parts, Py_ssize_t limit, Span *spans)
{
    int count = (int)Py_MIN(PyTuple_GET_SIZE(parts), MOST_PARTS);
    for (int number = 0; number < count; number++) {
        Py_ssize_t first, last;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(parts, number), "nn", &first, &last)) {
            return -1;
        }
        if (first < 0 || last < first || last > limit / WORD_BYTES) {
            PyErr_Format(PyExc_ValueError, "words %zd to %zd are not within %zd bytes", first, last, limit);
            return -1;
        }
        spans[number] = (Span){first * WORD_BYTES, (last - first) * WORD_BYTES};
    }
    return count;
}

/* Writes to each page of the memory, so that the system provides it now. */
static void
write_to(volatile char *memory, const Span *spans, int count)
{
    for (int number = 0; number < count; number++) {
        for (Py_ssize_t byte = 0; byte < spans[number].length; byte += SMALLEST_MEMORY_PAGE) {
            memory[spans[number].start + byte] = 0;
        }
    }
}

PyObject *
copying_provide(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target;
    PyObject *parts;
    Span spans[MOST_PARTS];
    if (!PyArg_ParseTuple(args, "w*O!:provide", &target, &PyTuple_Type, &parts)) {
        return NULL;
    }
    int count = read_spans(parts, target.len, spans);
    if (count >= 0) {
        PyThreadState *state = handover_leave();
        write_to(target.buf, spans, count);
        handover_return(state);
    }
    PyBuffer_Release(&target);
    return count < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
copying_copy_parts(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, source;
    PyObject *parts;
    Span spans[MOST_PARTS];
    if (!PyArg_ParseTuple(args, "w*y*O!:copy_parts", &target, &source, &PyTuple_Type, &parts)) {
        return NULL;
    }
    int count = read_spans(parts, Py_MIN(target.len, source.len), spans);
    for (int number = 0; number < count; number++) {
        memcpy((char *)target.buf + spans[number].start, (const char *)source.buf + spans[number].start, (size_t)spans[number].length);
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return count < 0 ? NULL : Py_NewRef(Py_None);
}

/* Returns the sum of the lengths; -1 with an exception if an item is not bytes. */
static Py_ssize_t
length_of(PyObject *items)
{
    Py_ssize_t length = 0;
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(items); number++) {
        PyObject *item = PyTuple_GET_ITEM(items, number);
        if (!PyBytes_Check(item) || PyBytes_GET_SIZE(item) > PY_SSIZE_T_MAX - length) {
            PyErr_SetString(PyExc_TypeError, "join() takes bytes");
            return -1;
        }
        length += PyBytes_GET_SIZE(item);
    }
    return length;
}

PyObject *
copying_join(PyObject *Py_UNUSED(module), PyObject *items)
{
    Py_ssize_t length = length_of(items);
    PyObject *joined = length < 0 ? NULL : PyBytes_FromStringAndSize(NULL, length);
    if (joined == NULL || length == 0) {
        return joined;
    }
    char *end = PyBytes_AS_STRING(joined);
    PyThreadState *state = handover_leave();
    for (Py_ssize_t number = 0; number < PyTuple_GET_SIZE(items); number++) {
        PyObject *item = PyTuple_GET_ITEM(items, number);
        memcpy(end, PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item));
        end += PyBytes_GET_SIZE(item);
    }
    handover_return(state);
    return joined;
}
