#include "page.h"

static int
header_open(Page *page)
{
    const int64_t *header = page->buffer.buf;
    if (page->buffer.len < HEADER_SCALARS * WORD_BYTES) {
        PyErr_Format(PyExc_ValueError, "a page needs a header, for which %zd bytes are not enough", page->buffer.len);
        return -1;
    }
    const struct {
        int word, most;
    } limits[] = {{HEADER_SEGMENT_BOUNDS, MAX_BOUNDS}, {HEADER_WAIT_BOUNDS, MAX_BOUNDS}, {HEADER_MAX_COROUTINES, MAX_RECORDS},
                  {HEADER_MAX_YIELD_POINTS, MAX_RECORDS}, {HEADER_MAX_REQUESTS, MAX_RECORDS}, {HEADER_WEIGHT, INT_MAX}};
    for (size_t place = 0; place < Py_ARRAY_LENGTH(limits); place++) {
        long long number = header[limits[place].word];
        if (number < 1 || number > limits[place].most) {
            PyErr_Format(PyExc_ValueError, "word %d of a page is 1 to %d, not %lld", limits[place].word, limits[place].most, number);
            return -1;
        }
    }
    page->segment.words = (Py_ssize_t)header[HEADER_SEGMENT_BOUNDS] + 2;
    page->wait.words = (Py_ssize_t)header[HEADER_WAIT_BOUNDS] + 2;
    page->coroutine_words = COROUTINE_SCALARS + 2 * STATUSES * page->wait.words;
    page->point_words = POINT_SCALARS + page->segment.words + page->wait.words;
    page->request_words = REQUEST_SCALARS + (STATUSES + 1) * page->wait.words;
    page->last_coroutine = (Py_ssize_t)header[HEADER_MAX_COROUTINES] + 1;
    page->last_point = (Py_ssize_t)header[HEADER_MAX_YIELD_POINTS];
    page->last_request = (Py_ssize_t)header[HEADER_MAX_REQUESTS];
    page->last_request_wait = WAITS_PER_REQUEST * page->last_request;
    page->threshold_ns = header[HEADER_BLOCKING_THRESHOLD_NS];
    page->weight = header[HEADER_WEIGHT];
    return 0;
}

/* Returns where the layout object says that a part of the page starts; NULL with an exception if so
   many words do not fit there. */
static int64_t *
part(const Page *page, PyObject *layout, const char *name, Py_ssize_t words)
{
    PyObject *offset = PyObject_GetAttrString(layout, name);
    if (offset == NULL) {
        return NULL;
    }
    Py_ssize_t start = PyLong_AsSsize_t(offset);
    Py_DECREF(offset);
    Py_ssize_t end = page->buffer.len / WORD_BYTES;
    if (start >= 0 && words <= end && start <= end - words) {
        return (int64_t *)page->buffer.buf + start;
    }
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "%zd words of %s do not fit into a page of %zd, starting at %zd", words, name, end, start);
    }
    return NULL;
}

static void
bounds_open(Bounds *bounds, const int64_t *words)
{
    Py_ssize_t count = bounds->words - 2;
    memcpy(bounds->upper_ns, words, (size_t)count * WORD_BYTES);
    bounds->upper_ns[count] = INT64_MAX;
}

static int
parts_open(Page *page, PyObject *layout)
{
    Py_ssize_t coroutines = (page->last_coroutine + 1) * page->coroutine_words, points = (page->last_point + 1) * page->point_words;
    Py_ssize_t requests = (page->last_request + 1) * page->request_words, waits = (page->last_request_wait + 1) * REQUEST_WAIT_SCALARS;
    const int64_t *bounds = part(page, layout, "bounds", page->segment.words + page->wait.words - 4);
    if (bounds == NULL || (page->loop = part(page, layout, "loop", LOOP_SCALARS)) == NULL ||
        (page->start_delay = part(page, layout, "start_delay", page->segment.words)) == NULL ||
        (page->iterations = part(page, layout, "iterations", page->segment.words)) == NULL ||
        (page->coroutines = part(page, layout, "coroutines", coroutines)) == NULL ||
        (page->points = part(page, layout, "yield_points", points)) == NULL ||
        (page->scope_errors = part(page, layout, "scope_errors", SCOPE_ERROR_SCALARS)) == NULL ||
        (page->requests = part(page, layout, "requests", requests)) == NULL ||
        (page->request_waits = part(page, layout, "request_waits", waits)) == NULL) {
        return -1;
    }
    bounds_open(&page->segment, bounds);
    bounds_open(&page->wait, bounds + page->segment.words - 2);
    return 0;
}

int
page_open(Page *page, PyObject *object)
{
    PyObject *memory = PyObject_GetAttrString(object, "memory");
    if (memory == NULL) {
        return -1;
    }
    int failed = PyObject_GetBuffer(memory, &page->buffer, PyBUF_WRITABLE);
    Py_DECREF(memory);
    if (failed) {
        return -1;
    }
    PyObject *layout = PyObject_GetAttrString(object, "layout");
    if (layout == NULL || header_open(page) < 0 || parts_open(page, layout) < 0) {
        Py_XDECREF(layout);
        page_close(page);
        return -1;
    }
    Py_DECREF(layout);
    return 0;
}

void
page_close(Page *page)
{
    PyBuffer_Release(&page->buffer);
}
