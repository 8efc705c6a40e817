#include "copying.h"

#include "constants.h"
#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORD_BYTES ((Py_ssize_t)sizeof(int64_t))
#define MOST_PARTS 16
#define SMALLEST_MEMORY_PAGE 4096
#define FILE_BYTES 512
#define MOMENT_NS 50000

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

static void
copy_spans(const Py_buffer *target, const Py_buffer *source, const Span *spans, int count)
{
    for (int number = 0; number < count; number++) {
        memcpy((char *)target->buf + spans[number].start, (const char *)source->buf + spans[number].start, (size_t)spans[number].length);
    }
}

/* Whether no update of a page is in progress, nor was begun since so many were. */
static bool
is_at_rest(const volatile int64_t *loop, int64_t started)
{
    return loop[LOOP_STARTED] == started && loop[LOOP_FINISHED] == started;
}

/* Copies while a loop may write. Returns whether it did not. */
static bool
copy_at_rest(const Py_buffer *target, const Py_buffer *source, const Span *spans, int count, const volatile int64_t *loop)
{
    handover_sleep_ns(MOMENT_NS); /* a loop that gave the interpreter up writes as soon as it has it again */
    int64_t started = loop[LOOP_STARTED];
    atomic_thread_fence(memory_order_acquire);
    if (!is_at_rest(loop, started)) {
        return false;
    }
    atomic_thread_fence(memory_order_acquire);
    copy_spans(target, source, spans, count);
    atomic_thread_fence(memory_order_acquire);
    return is_at_rest(loop, started);
}

PyObject *
copying_copy_unheld(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, source;
    PyObject *parts;
    Py_ssize_t loop_word;
    Span spans[MOST_PARTS];
    if (!PyArg_ParseTuple(args, "w*y*O!n:copy_unheld", &target, &source, &PyTuple_Type, &parts, &loop_word)) {
        return NULL;
    }
    bool at_rest = false;
    int count = read_spans(parts, Py_MIN(target.len, source.len), spans);
    if (count >= 0 && (loop_word < 0 || loop_word >= source.len / WORD_BYTES - LOOP_STARTED)) {
        PyErr_Format(PyExc_ValueError, "there is no loop at word %zd of %zd bytes", loop_word, source.len);
        count = -1;
    }
    if (count >= 0) {
        const volatile int64_t *loop = (const int64_t *)source.buf + loop_word;
        PyThreadState *state = handover_leave();
        at_rest = copy_at_rest(&target, &source, spans, count, loop);
        handover_return(state);
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return count < 0 ? NULL : PyBool_FromLong(at_rest);
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
    copy_spans(&target, &source, spans, count);
    PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return count < 0 ? NULL : Py_NewRef(Py_None);
}

void
copying_release(const Py_buffer *buffer)
{
    /* Only called for copies, which begin at a page of memory if they are mappings. */
    if (buffer->obj != NULL && strcmp(Py_TYPE(buffer->obj)->tp_name, "mmap.mmap") == 0) {
        (void)madvise(buffer->buf, (size_t)buffer->len, MADV_DONTNEED);
    }
}

static ssize_t
read_start(const char *path, char *start)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        return -1;
    }
    ssize_t length = read(descriptor, start, FILE_BYTES);
    int error = errno;
    (void)close(descriptor);
    errno = error;
    return length;
}

PyObject *
copying_read_file(PyObject *Py_UNUSED(module), PyObject *path)
{
    const char *name = PyUnicode_AsUTF8(path);
    char start[FILE_BYTES];
    if (name == NULL) {
        return NULL;
    }
    /* The watchdog reads files, too, and is in no hurry. */
    bool answers = handover_answers();
    PyThreadState *state = answers ? handover_leave() : PyEval_SaveThread();
    ssize_t length = read_start(name, start);
    int error = errno;
    (answers ? handover_return : PyEval_RestoreThread)(state);
    if (length < 0) {
        errno = error;
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    return PyBytes_FromStringAndSize(start, length);
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
