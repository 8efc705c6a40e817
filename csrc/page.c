#include "page.h"

static int
bounds_open(Bounds *bounds, const int64_t *words, int64_t count)
{
    if (count < 1 || count > MAX_BOUNDS) {
        PyErr_Format(PyExc_ValueError, "a page has 1 to %d bucket bounds, not %lld", MAX_BOUNDS, (long long)count);
        return -1;
    }
    for (int64_t number = 0; number < count; number++) {
        bounds->upper_ns[number] = words[number];
    }
    bounds->upper_ns[count] = INT64_MAX;
    bounds->words = (Py_ssize_t)count + 2;
    return 0;
}

/* Where a part of the page starts, as the layout object says. */
static int64_t *
part(PyObject *layout, const char *name, int64_t *words)
{
    PyObject *offset = PyObject_GetAttrString(layout, name);
    if (offset == NULL) {
        return NULL;
    }
    Py_ssize_t number = PyLong_AsSsize_t(offset);
    Py_DECREF(offset);
    return number < 0 ? NULL : words + number;
}

static int
parts_open(Page *page, PyObject *layout, int64_t *words)
{
    page->loop = part(layout, "loop", words);
    page->start_delay = page->loop ? part(layout, "start_delay", words) : NULL;
    page->iterations = page->start_delay ? part(layout, "iterations", words) : NULL;
    page->coroutines = page->iterations ? part(layout, "coroutines", words) : NULL;
    page->points = page->coroutines ? part(layout, "yield_points", words) : NULL;
    int64_t *bounds = page->points ? part(layout, "bounds", words) : NULL;
    if (bounds == NULL || bounds_open(&page->segment, bounds, words[HEADER_SEGMENT_BOUNDS]) < 0 ||
        bounds_open(&page->wait, bounds + words[HEADER_SEGMENT_BOUNDS], words[HEADER_WAIT_BOUNDS]) < 0) {
        return -1;
    }
    page->coroutine_words = COROUTINE_SCALARS + 2 * STATUSES * page->wait.words;
    page->point_words = POINT_SCALARS + page->segment.words + page->wait.words;
    page->max_coroutines = (Py_ssize_t)words[HEADER_MAX_COROUTINES];
    page->max_points = (Py_ssize_t)words[HEADER_MAX_YIELD_POINTS];
    page->threshold_ns = words[HEADER_BLOCKING_THRESHOLD_NS];
    page->weight = words[HEADER_WEIGHT];
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
    if (layout == NULL || parts_open(page, layout, page->buffer.buf) < 0) {
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
