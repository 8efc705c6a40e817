/* The stats page in C. The offsets within records come from aiometrics/pages/layout.py through the
   generated constants.h; the starts of records are read from the layout object when a page is
   opened. */
#ifndef AIOMETRICS_PAGE_H
#define AIOMETRICS_PAGE_H

#include <Python.h>
#include <stdatomic.h>
#include <stdint.h>

#include "clock.h"
#include "constants.h"

#define WORD_BYTES ((Py_ssize_t)sizeof(int64_t))

/* The numbers of at least 4 with the same three highest bits share a slot; all below 4 are in the
   first one. */
#define SLOT_BITS 2
#define SLOTS ((62 - SLOT_BITS + 1) << SLOT_BITS)

/* The pieces of a histogram: their upper bounds in ns, and after them a last one that no duration
   exceeds. */
typedef struct {
    int64_t upper_ns[MAX_PIECES];
    uint8_t first[SLOTS]; /* by slot, the piece of its smallest duration */
    Py_ssize_t words;     /* size of a histogram with these pieces: its sum, then a count for each */
} Pieces;

typedef struct {
    Py_buffer buffer;
    int64_t *loop;
    int64_t *start_delay;
    int64_t *iterations;
    int64_t *coroutines;
    int64_t *points;
    int64_t *scope_errors;
    int64_t *requests;
    int64_t *request_waits;
    int64_t *held;
    int64_t *paths;
    int64_t *nodes;
    Py_ssize_t coroutine_words;
    Py_ssize_t point_words;
    Py_ssize_t request_words;
    Py_ssize_t last_coroutine; /* these five: the highest number that a record can have */
    Py_ssize_t last_point;
    Py_ssize_t last_request;
    Py_ssize_t last_request_wait;
    Py_ssize_t last_node;
    uint64_t path_mask; /* the number of segment paths but the last, less one */
    Pieces segment;
    Pieces wait;
    int64_t threshold_ns;
    int64_t weight;
} Page;

int page_open(Page *page, PyObject *object);
void page_close(Page *page);

/* Between page_begin and page_end the page is inconsistent, which a reader sees because the two
   counts differ. */
static inline void
page_begin(const Page *page)
{
    page->loop[LOOP_STARTED] += 1;
    atomic_thread_fence(memory_order_release);
}

static inline void
page_end(const Page *page)
{
    atomic_thread_fence(memory_order_release);
    page->loop[LOOP_FINISHED] += 1;
}

/* The same where another thread may be in an update, too: one finalizes a task, say, while the loop, without the interpreter, ends a
   turn. A count that missed one would never be equal to the other again. */
static inline void
page_begin_shared(const Page *page)
{
    (void)__atomic_fetch_add(&page->loop[LOOP_STARTED], 1, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_release);
}

static inline void
page_end_shared(const Page *page)
{
    (void)__atomic_fetch_add(&page->loop[LOOP_FINISHED], 1, __ATOMIC_RELEASE);
}

static inline int
slot_of(int64_t duration_ns)
{
    if (duration_ns < 1 << SLOT_BITS) {
        return 0;
    }
    int exponent = 63 - __builtin_clzll((unsigned long long)duration_ns) - SLOT_BITS;
    return (exponent << SLOT_BITS) + (int)(duration_ns >> exponent) - (1 << SLOT_BITS);
}

static inline void
observe(int64_t *histogram, const Pieces *pieces, int64_t duration_ns)
{
    Py_ssize_t piece = pieces->first[slot_of(duration_ns)];
    while (duration_ns > pieces->upper_ns[piece]) {
        piece++;
    }
    histogram[0] += duration_ns;
    histogram[1 + piece] += 1;
}

static inline void
note_max(int64_t *word, int64_t duration_ns)
{
    if (duration_ns > *word) {
        *word = duration_ns;
    }
}

void page_add_long_square(int64_t *point, int64_t duration_ns);

static inline void
add_square(int64_t *point, int64_t duration_ns)
{
    if (duration_ns >= SECOND_NS) {
        page_add_long_square(point, duration_ns);
        return;
    }
    point[POINT_SQUARE_NS2] += duration_ns * duration_ns;
    if (point[POINT_SQUARE_NS2] >= (int64_t)SQUARE_NS2) {
        point[POINT_SQUARE_NS2] -= (int64_t)SQUARE_NS2;
        point[POINT_SQUARE_S2] += 1;
    }
}

/* Where segments are counted that began and ended at these yield points: the last one if there is no room. */
static inline int64_t *
page_path(const Page *page, int32_t began, int32_t ended)
{
    uint64_t number = (31 * (uint64_t)(began + 1) + (uint64_t)ended) * PATH_HASH >> 15;
    for (uint64_t probe = 0; probe < PATH_PROBES; probe++) {
        int64_t *path = page->paths + ((number + probe) & page->path_mask) * SEGMENT_PATH_SCALARS;
        if (path[SEGMENT_PATH_SEGMENTS] == 0) {
            path[SEGMENT_PATH_BEGAN] = began;
            path[SEGMENT_PATH_ENDED] = ended;
            return path;
        }
        if (path[SEGMENT_PATH_BEGAN] == began && path[SEGMENT_PATH_ENDED] == ended) {
            return path;
        }
    }
    return page->paths + (page->path_mask + 1) * SEGMENT_PATH_SCALARS;
}

static inline int64_t *
page_node(const Page *page, int32_t number)
{
    return page->nodes + number * CHAIN_NODE_SCALARS;
}

/* Whether a chain of awaits that is new has no room. */
static inline int
page_chains_full(const Page *page)
{
    return ((const int64_t *)page->buffer.buf)[HEADER_CHAINS_FULL] != 0;
}

static inline int64_t *
page_held(const Page *page, int32_t number)
{
    return page->held + number * HELD_WORDS;
}

static inline int64_t *
page_coroutine(const Page *page, int32_t number)
{
    return page->coroutines + number * page->coroutine_words;
}

static inline int64_t *
page_wall(const Page *page, int32_t number, int status)
{
    return page_coroutine(page, number) + COROUTINE_SCALARS + status * page->wait.words;
}

static inline int64_t *
page_active(const Page *page, int32_t number, int status)
{
    return page_wall(page, number, STATUSES + status);
}

static inline int64_t *
page_point(const Page *page, int32_t number)
{
    return page->points + number * page->point_words;
}

/* Counts a segment by the yield points where it began and ended. */
static inline void
page_count_segment(const Page *page, int32_t began, int32_t ended, int64_t segment_ns)
{
    int64_t *point = page_point(page, ended);
    observe(point + POINT_SCALARS, &page->segment, segment_ns);
    note_max(&point[POINT_SEGMENT_MAX_NS], segment_ns);
    add_square(point, segment_ns);
    int64_t *path = page_path(page, began, ended);
    path[SEGMENT_PATH_SEGMENTS] += 1;
    path[SEGMENT_PATH_ACTIVE_NS] += segment_ns;
}

static inline void
page_count_wait(const Page *page, int32_t number, int64_t wait_ns)
{
    int64_t *point = page_point(page, number);
    observe(point + POINT_SCALARS + page->segment.words, &page->wait, wait_ns);
    note_max(&point[POINT_WAIT_MAX_NS], wait_ns);
}

static inline int64_t *
page_request(const Page *page, int32_t number)
{
    return page->requests + number * page->request_words;
}

static inline int64_t *
page_request_wall(const Page *page, int32_t number, int status)
{
    return page_request(page, number) + REQUEST_SCALARS + status * page->wait.words;
}

static inline int64_t *
page_request_active(const Page *page, int32_t number)
{
    return page_request_wall(page, number, STATUSES);
}

static inline int64_t *
page_request_wait(const Page *page, int32_t number)
{
    return page->request_waits + number * REQUEST_WAIT_SCALARS;
}

#endif
