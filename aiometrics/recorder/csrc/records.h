/* The records of copies of pages of which a program can have many, read and added up without the
   GIL: coroutines, yield points, lines that held the loop, requests and their waits. The specification is aiometrics/pages/reader.py and merge.py. It trusts nothing in a page. What it
   cannot read as they do, because numbers are negative or names are not UTF-8 for instance, it
   leaves to them. */
#ifndef AIOMETRICS_RECORDS_H
#define AIOMETRICS_RECORDS_H

#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "constants.h"
#include "decimal.h"

#define LABELS 3
/* A record counts so many times at most, over all pages: its numbers fit into Wide. */
#define MOST_PARTS 65536

/* Bytes of somebody else. */
typedef struct {
    const char *start;
    size_t length;
} Bytes;

/* By piece of a histogram, the buckets that it belongs to. */
typedef struct {
    Py_ssize_t pieces;
    Py_ssize_t buckets; /* classic ones */
    int native;         /* whether there are native ones */
    uint8_t classic_of[MAX_PIECES];
    uint8_t native_of[MAX_PIECES];
} Shape;

typedef struct {
    Py_buffer buffer;
    const int64_t *words;
    const char *strings;
    Py_ssize_t loop, coroutines, points, nodes, paths, held, requests, waits;
    Py_ssize_t coroutine_count, point_count, node_count, path_count, request_count, wait_count, strings_used;
    int64_t threshold_ns, unix_offset_ns;
    int weight;
    int alive;
    int *exemplars; /* the number of each yield point's and then of each request's, by status; -1 if it has none */
} Copy;

/* What one record of one page adds to a row. */
typedef struct {
    const int64_t *words; /* NULL: blocking time only, of (running) */
    int64_t running_ns;
    int weight;
    int alive;
    int64_t unix_offset_ns;
    int next; /* the next part of the row; -1 if it is the last one */
} Part;

/* The records of all pages that have the same labels. */
typedef struct {
    Bytes labels[LABELS];
    uint32_t hash;
    unsigned groups;
    int first, last;
    int count;    /* of its parts, by weight */
    int exemplars[STATUSES]; /* of requests by status, of others only the first; -1 if it has none */
    int next;     /* the next row in the same slot */
} Row;

typedef struct {
    Row *rows;
    int count, room;
    int *slots;
    int slot_count;
} RowTable;

typedef enum { ACCEPTED, DECLINED, NO_MEMORY } Outcome;

typedef struct {
    PyObject_HEAD
    Shape shapes[2]; /* of segments and of waits */
    Py_ssize_t coroutine_words, point_words, request_words;
    Copy *copies;
    int copy_count;
    Part *parts;
    int part_count, part_room;
    int64_t *exemplar_ns; /* when each was */
    int exemplar_count;
    RowTable tables[TABLES];
    PyObject *shown;  /* keeps the records of detail.c that Python gave */
    int64_t *befores; /* those that it made */
} Records;

/* The sums of a histogram. */
typedef struct {
    Wide sum_ns;
    Wide classic[MAX_BOUNDS + 1];
    Wide native[NATIVE_BUCKETS];
} Sums;

typedef struct {
    Wide value;
    int scale; /* 0: a whole number */
} Number;

extern PyTypeObject *records_type;

int records_init_module(PyObject *module);

/* The bytes of an object, which must outlive them; -1 with an exception if it is of another type. */
static inline int
read_bytes(PyObject *object, Bytes *bytes)
{
    char *start;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(object, &start, &length) < 0) {
        return -1;
    }
    *bytes = (Bytes){start, (size_t)length};
    return 0;
}

static inline Bytes
bytes_of(const char *text)
{
    return (Bytes){text, strlen(text)};
}

static inline bool
is_equal(Bytes one, Bytes two)
{
    return one.length == two.length && memcmp(one.start, two.start, one.length) == 0;
}

/* Sums of squares stay below 10^15 s², however many are added up. */
#define MOST_SQUARE_S2 INT64_C(10000000000)

/* Return the number of the row with these labels, or -1: there is none, or no memory for one. The
   second one adds it if need be, so that other rows may be in another place then. */
int records_find_row(const RowTable *table, const Bytes *labels);
int records_row(RowTable *table, const Bytes *labels);

/* Adds a part to a row; that has changed no other one unless it was ACCEPTED. */
Outcome records_add_part(Records *self, Row *row, Part part);

/* Gives a row an exemplar with that status if it is newer than its own. */
void records_keep_newer(const Records *self, Row *row, int status, int exemplar);

/* A row without labels and parts. */
Row records_empty_row(void);

/* Both add up the parts of a row, at a word of its records. */
Number records_number(const Records *self, const Row *row, int kind, Py_ssize_t word);
void records_add_up(const Records *self, const Row *row, int kind, Py_ssize_t word, Sums *sums);

static inline bool
is_histogram(int kind)
{
    return kind == NUMBER_SEGMENTS || kind == NUMBER_WAITS || kind == NUMBER_REQUEST_WALL || kind == NUMBER_REQUEST_ACTIVE;
}

/* The buckets of a histogram. */
static inline const Shape *
shape_of(const Records *self, int kind)
{
    return &self->shapes[kind != NUMBER_SEGMENTS];
}

/* Sums up yield points for Python. */
PyObject *records_fold(PyObject *self, PyObject *args);

/* Writes the families that Python describes: (bytes, samples). */
PyObject *records_text(PyObject *self, PyObject *args);
PyObject *records_protobuf(PyObject *self, PyObject *args);

#endif
