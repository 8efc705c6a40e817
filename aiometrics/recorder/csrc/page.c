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
    page->last_coroutine = (Py_ssize_t)header[HEADER_MAX_COROUTINES] + 1;
    page->last_point = (Py_ssize_t)header[HEADER_MAX_YIELD_POINTS];
    page->last_request = (Py_ssize_t)header[HEADER_MAX_REQUESTS];
    page->last_request_wait = WAITS_PER_REQUEST * page->last_request;
    page->last_node = NODES_PER_YIELD_POINT * page->last_point + OWN_CHAIN_NODES - 1;
    page->path_mask = 1;
    while (page->path_mask < 2 * (uint64_t)page->last_point - 1) {
        page->path_mask = 2 * page->path_mask + 1;
    }
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

/* Reads the upper bounds of pieces, a tuple of ascending numbers, from the layout object. */
static int
bounds_read(Pieces *pieces, PyObject *bounds)
{
    Py_ssize_t count = PyTuple_Check(bounds) ? PyTuple_GET_SIZE(bounds) : 0;
    if (count < 1 || count >= MAX_PIECES) {
        PyErr_Format(PyExc_ValueError, "a histogram has 1 to %d bounds, not %zd", MAX_PIECES - 1, count);
        return -1;
    }
    int64_t last_ns = 0;
    for (Py_ssize_t piece = 0; piece < count; piece++) {
        int64_t upper_ns = PyLong_AsLongLong(PyTuple_GET_ITEM(bounds, piece));
        if (upper_ns <= last_ns) {
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_ValueError, "bounds ascend, but %lld follows %lld", (long long)upper_ns, (long long)last_ns);
            }
            return -1;
        }
        last_ns = pieces->upper_ns[piece] = upper_ns;
    }
    pieces->upper_ns[count] = INT64_MAX;
    pieces->words = count + 2;
    return 0;
}

static int
pieces_open(Pieces *pieces, PyObject *layout, const char *name)
{
    PyObject *bounds = PyObject_GetAttrString(layout, name);
    if (bounds == NULL || bounds_read(pieces, bounds) < 0) {
        Py_XDECREF(bounds);
        return -1;
    }
    Py_DECREF(bounds);
    Py_ssize_t piece = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        int64_t smallest_ns = slot == 0 ? INT64_MIN : (int64_t)((1 << SLOT_BITS) + slot % (1 << SLOT_BITS)) << (slot >> SLOT_BITS);
        while (smallest_ns > pieces->upper_ns[piece]) {
            piece++;
        }
        pieces->first[slot] = (uint8_t)piece;
    }
    return 0;
}

static int
parts_open(Page *page, PyObject *layout)
{
    page->coroutine_words = COROUTINE_SCALARS + 2 * STATUSES * page->wait.words;
    page->point_words = POINT_SCALARS + page->segment.words + page->wait.words;
    page->request_words = REQUEST_SCALARS + (STATUSES + 1) * page->wait.words;
    Py_ssize_t coroutines = (page->last_coroutine + 1) * page->coroutine_words, points = (page->last_point + 1) * page->point_words;
    Py_ssize_t requests = (page->last_request + 1) * page->request_words, waits = (page->last_request_wait + 1) * REQUEST_WAIT_SCALARS;
    Py_ssize_t nodes = (page->last_node + 1) * CHAIN_NODE_SCALARS;
    Py_ssize_t paths = (Py_ssize_t)(page->path_mask + 2) * SEGMENT_PATH_SCALARS;
    if ((page->loop = part(page, layout, "loop", LOOP_SCALARS)) == NULL ||
        (page->start_delay = part(page, layout, "start_delay", page->segment.words)) == NULL ||
        (page->iterations = part(page, layout, "iterations", page->segment.words)) == NULL ||
        (page->coroutines = part(page, layout, "coroutines", coroutines)) == NULL ||
        (page->points = part(page, layout, "yield_points", points)) == NULL ||
        (page->scope_errors = part(page, layout, "scope_errors", SCOPE_ERROR_SCALARS)) == NULL ||
        (page->requests = part(page, layout, "requests", requests)) == NULL ||
        (page->request_waits = part(page, layout, "request_waits", waits)) == NULL ||
        (page->held = part(page, layout, "held", MAX_HELD * HELD_WORDS)) == NULL ||
        (page->nodes = part(page, layout, "chain_nodes", nodes)) == NULL ||
        (page->paths = part(page, layout, "segment_paths", paths)) == NULL) {
        return -1;
    }
    return 0;
}

/* Adds the square of at least a second. */
void
page_add_long_square(int64_t *point, int64_t duration_ns)
{
    uint64_t whole = (uint64_t)duration_ns / SECOND_NS, rest = (uint64_t)duration_ns % SECOND_NS;
    uint64_t mixed = 2 * whole * rest;
    uint64_t ns2 = (uint64_t)point[POINT_SQUARE_NS2] + mixed % SECOND_NS * SECOND_NS + rest * rest;
    point[POINT_SQUARE_S2] += (int64_t)(whole * whole + mixed / SECOND_NS + ns2 / SQUARE_NS2);
    point[POINT_SQUARE_NS2] = (int64_t)(ns2 % SQUARE_NS2);
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
    if (layout == NULL || header_open(page) < 0 || pieces_open(&page->segment, layout, "segment_pieces_ns") < 0 ||
        pieces_open(&page->wait, layout, "wait_pieces_ns") < 0 || parts_open(page, layout) < 0) {
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
